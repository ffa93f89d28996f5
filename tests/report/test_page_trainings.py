"""What a report makes of several trainings: repeats, other recipes, and which arch is the best."""

import json
import shutil
from pathlib import Path

import pytest
from helpers import edit, edit_settings

from mobilenas.report.page.content import report_content
from mobilenas.report.page.figures import draw_figures
from mobilenas.report.page.summary import headline
from mobilenas.report.page.write import render


def test_several_trainings_of_an_arch_are_their_mean(job: Path, tmp_path: Path) -> None:
    runs = [tmp_path / name for name in ("first", "second", "third")]
    for run, accuracy in zip(runs, (0.6, 0.8, 0.7), strict=True):
        shutil.copytree(job / "train", run)
        edit(run / "run.json", parents={}, relative={})
        edit(run / "result.json", accuracy=accuracy, test_accuracy=accuracy - 0.1)
    content = report_content([job / "evolve", *runs])
    (arch,) = (arch for arch in content["archs"] if "trained" in arch)
    assert {"first", "second", "third"} <= set(arch["in"])
    validated, tested = (f"{mean}.00 ± 10.00 % (n = 3 trainings)" for mean in (70, 60))
    assert f"{validated} on 100 validation images and {tested} on 200 test" in content["found"]
    top = content["headline"][0]
    assert top["value"] == "60.00 ± 10.00 %"
    assert top["note"] == "mean ± sd of 3 trainings, on 200 test images"
    stars = draw_figures(content)["front"]["data"][-1]
    for key in ("array", "arrayminus"):
        assert stars["error_y"][key] == pytest.approx([10])
    assert stars["y"] == pytest.approx([70]) and validated in stars["text"][0]
    assert validated in render(content).split('id="fronts"')[1].split("</table>")[0]
    edit(runs[0] / "result.json", test_accuracy=None, test_images=0)
    top = report_content(runs)["headline"][0]
    assert top["value"] == "70.00 ± 10.00 %" and "3 trainings, on 100 validation" in top["note"]


def test_trainings_by_other_recipes_are_no_repeats(job: Path, tmp_path: Path) -> None:
    runs = [tmp_path / name for name in ("short", "long-0", "long-1")]
    for run, accuracy in zip(runs, (0.5, 0.8, 0.7), strict=True):
        shutil.copytree(job / "train", run)
        edit(run / "run.json", parents={}, relative={})
        edit(run / "result.json", accuracy=accuracy)
    edit_settings(runs[0], config={"epochs": 3.0, "device": "cpu"})
    edit_settings(runs[1], config={"epochs": 200.0, "device": "cpu"})
    edit_settings(runs[2], config={"epochs": 200.0, "device": "cuda"}, seed=5)
    content = report_content(runs)
    (arch,) = content["archs"]
    assert arch["trained"]["accuracy"] == pytest.approx(0.75)
    assert arch["trained"]["trainings"] == 2
    notes = [note for note in content["notes"] if "recipes" in note]
    assert len(notes) == 1 and notes[0].startswith(f"{arch['arch']} was trained by 2 recipes")


def test_the_best_arch_is_the_one_of_the_best_mean(job: Path, tmp_path: Path) -> None:
    runs = [tmp_path / name for name in ("lucky", "unlucky", "steady")]
    front = json.loads((job / "evolve" / "front.json").read_text())["front"]
    for run, row, accuracy in zip(runs, (0, 0, 1), (0.9, 0.5, 0.8), strict=True):
        shutil.copytree(job / "train", run)
        edit(run / "run.json", parents={}, relative={})
        edit_settings(run, arch=front[row]["arch"])
        edit(run / "result.json", arch=front[row]["arch"], accuracy=accuracy)
    found = report_content(runs)["found"]
    assert f"{front[1]['arch']} has 80.00 % on 100 validation images" in found


def test_the_budget_beside_a_training_is_that_of_its_own_search(job: Path, tmp_path: Path) -> None:
    shutil.copytree(job / "evolve", tmp_path / "another")
    edit_settings(tmp_path / "another", limits={"flops": 1_234_000_000})
    front = json.loads((tmp_path / "another" / "front.json").read_text())
    edit(tmp_path / "another" / "front.json", front=front["front"][:1])
    notes = {
        name: " ".join(x["note"] for x in headline(report_content(runs)) if x["name"] == "FLOPs")
        for name, runs in {
            "own": [tmp_path / "another", job / "evolve", job / "train"],
            "none": [tmp_path / "another", job / "train"],
        }.items()
    }
    assert "budget" in notes["own"] and "1.234G" not in notes["own"] + notes["none"]
