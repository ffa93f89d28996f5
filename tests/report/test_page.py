"""A report as data and as HTML: what is in it, what damage does to it, and that nothing injects."""

import json
import os
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from helpers import edit, edit_settings
from PIL import Image
from reported import make_runs

from mobilenas.base.errors import BadInput
from mobilenas.report.page.content import report_content
from mobilenas.report.page.figures import draw_figures
from mobilenas.report.page.summary import sentences
from mobilenas.report.page.write import _picture, render, write_page
from mobilenas.runs import RunFolder

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7*7 }}"
RUNS = ("supernet", "evolve", "train", "search", "rank", "truth", "check", "detect")
_HALF = {"value": 0.7, "low": None, "high": 0.8}
_WHOLE = {"value": 0.7, "low": 0.5, "high": 0.8}
_PREDICTOR = {"evidence": False, "kendall": _HALF, "spearman": _WHOLE, "pearson": _WHOLE}
# Of a file keys that do not fit the rest of it.
MISFITS: dict[str, list[dict[str, Any]]] = {
    "train/result.json": [{"test_accuracy": None}, {"memory": "x"}, {"memory": None}],
    "rank/rank.json": [{"predictors": {}}, {"predictors": {"supernet": _PREDICTOR}}],
}
SECTIONS = {
    *("searches", "strategies", "trainings", "truths", "rankings", "checks", "detections"),
    "exports",
}


class Tags(HTMLParser):
    """The tags of a page, and the attributes that would run something."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.handlers: list[str] = []
        self.addresses: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]


def test_a_run_brings_its_parents(job: Path) -> None:
    content = report_content([job / "train"])
    assert [run["run"] for run in content["runs"]] == ["supernet", "evolve", "train"]
    content = report_content([job / "detect", job / "rank"])
    names = ["supernet", "rank", "evolve", "train", "detect"]
    assert [run["run"] for run in content["runs"]] == names


def test_every_kind_of_run_has_its_part(job: Path) -> None:
    content = report_content([job])
    assert len(content["runs"]) == 8
    for section in SECTIONS:
        assert content[section], section
        assert [part for part in content[section] if "damage" in part] == [], section
    (search,) = content["searches"]
    assert len(search["front"]) == 8
    assert search["picks"]["best"] == search["front"][-1]["arch"]
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    drawn = draw_figures(content)
    assert {"front", "training-loss", "ranking-0", "predictors-0", "latency-0"} <= drawn.keys()
    assert {"strategy-entropy", "strategy-skip", "probabilities-0"} <= drawn.keys()
    assert all(trace["y"] for figure in drawn.values() for trace in figure["data"])


def test_a_run_has_one_colour_in_all_figures() -> None:
    curve = [[1.0, 0.5], [2.0, 0.25]]
    logs = {"a": {"loss": curve}, "b": {"loss": curve, "accuracy": curve}}
    trainings = [{"run": run, "curves": {"accuracy": [], **log}} for run, log in logs.items()]
    drawn = draw_figures({**{name: [] for name in SECTIONS}, "trainings": trainings})
    colours = [
        {trace["name"]: trace["line"]["color"] for trace in drawn[name]["data"]}
        for name in ("training-loss", "training-accuracy")
    ]
    assert colours[0].keys() == {"a", "b"}
    assert colours[1] == {"b": colours[0]["b"]}
    assert drawn["training-accuracy"]["label"].endswith("images: b")


def test_a_sweep_brings_its_searches(job: Path, tmp_path: Path) -> None:
    for name in ("flops-1M", "flops-2M"):
        shutil.copytree(job / "evolve", tmp_path / "sweep" / name)
    RunFolder.create(tmp_path / "sweep", "sweep", {"seed": 0})
    content = report_content([tmp_path / "sweep"])
    assert [search["run"] for search in content["searches"]] == ["flops-1M", "flops-2M"]
    assert "2 searches that evaluated 24 archs" in content["asked"]


def test_a_damaged_picture_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "drawn.png"
    Image.new("RGB", (64, 64)).save(file)
    content = file.read_bytes()
    file.write_bytes(content.replace(b"IDAT", b"I\x00AT").replace(b"IEND", b"\x01END"))
    assert _picture(str(file)) is None


def test_a_network_at_another_resolution_is_another_arch(job: Path, tmp_path: Path) -> None:
    shutil.copytree(job / "evolve", tmp_path / "evolve")
    shutil.copytree(job / "train", tmp_path / "train")
    run = json.loads((tmp_path / "train" / "run.json").read_text())
    space = run["settings"]["space"] | {"resolution": 64}
    edit_settings(tmp_path / "train", space=space)
    edit(tmp_path / "train" / "run.json", parents={}, relative={})
    edit(tmp_path / "train" / "result.json", flops=12_345_678)
    content = report_content([tmp_path / "evolve", tmp_path / "train"])
    row = content["searches"][0]["front"][-1]
    alike = [arch for arch in content["archs"] if arch["arch"] == row["arch"]]
    assert [arch["costs"]["flops"] for arch in alike] == [row["flops"], 12_345_678]
    assert ["trained" in arch for arch in alike] == [False, True]
    assert "93.00 %" not in render(content).split('id="fronts"')[1].split("</table>")[0]


def test_a_cost_of_ones_own_is_drawn_in_its_own_units(job: Path) -> None:
    content = report_content([job / "evolve"])
    (search,) = content["searches"]
    search["cost"], search["costs"] = "joules@board", ["joules@board", "flops"]
    for row in [*search["front"], *search["evaluated"]]:
        row["joules@board"] = row["flops"] / 1e9
    axis = draw_figures(content)["front"]["variants"][0]
    assert "joules@board" in axis["title"]
    assert min(axis["x"][0]) == min(row["joules@board"] for row in search["evaluated"])


def test_the_sentences_say_what_was_asked_found_and_compared(job: Path) -> None:
    content = report_content([job / "train", job / "rank"])
    assert "space digits" in content["asked"]
    assert "pets (900 training images)" in content["asked"]
    assert "a search that evaluated 12 archs" in content["asked"]
    assert "a front of 8 archs" in content["found"].lower()
    assert "91.00 % on 200 test images" in content["found"]
    assert (
        "12 archs with a Kendall's tau of 0.70 [0.50, 0.80], too few to be evidence"
        in (content["compared"])
    )


def test_a_front_by_score_is_explained_and_compared_with_its_space(job: Path) -> None:
    content = report_content([job])
    by_accuracy = sentences(content)["compared"]
    assert "the space's arch of median FLOPs" in by_accuracy
    assert "Score: accuracy" not in render(content)
    content["searches"][0]["quality"] = "score"
    for row in (*content["searches"][0]["front"], *content["searches"][0]["evaluated"]):
        row["score"] = row["accuracy"]
    assert sentences(content)["compared"] == by_accuracy
    assert "Score: accuracy in the supernet plus NASWOT" in render(content)


def test_each_number_says_what_it_rests_on(job: Path) -> None:
    rows = {row["number"]: row for row in report_content([job])["worth"]}
    assert rows["train: test accuracy"]["selected"] == "nothing"
    assert rows["train: test accuracy"]["rests_on"].startswith("95 % [86.2, 94.2], n = 200")
    assert "by these very images" in rows["evolve: best of the front, in the supernet"]["selected"]
    assert rows["rank: Kendall's tau of the supernet"]["rests_on"].endswith("evidence from 30 on")


def test_a_detector_of_another_backbone_without_precisions_is_whole(
    job: Path, tmp_path: Path
) -> None:
    shutil.copytree(job / "detect", tmp_path / "rpn")
    edit(tmp_path / "rpn" / "run.json", parents={}, relative={})
    unmeasured = dict.fromkeys(("AP", "AP50", "AP75", "AP_small", "AP_medium"))
    classes: dict[str, float | None] = dict.fromkeys(("cat", "dog"))
    edit(tmp_path / "rpn" / "result.json", space=None, arch=None, classes=classes, **unmeasured)
    content = report_content([tmp_path / "rpn"])
    assert "damage" not in content["detections"][0]
    assert content["found"] == "Its detector an AP of -."
    assert [figure["value"] for figure in content["headline"]] == ["-"]
    assert [row["value"] for row in content["worth"]] == ["-"]
    page = render(content)
    assert "<h3>rpn: retinanet_digits</h3>" in page
    assert page.count('<td class="number">-</td>') == 6 + 1  # and of the worth


def test_what_was_not_measured_is_left_out(job: Path, tmp_path: Path) -> None:
    shutil.copytree(job, tmp_path / "job")
    runs = [tmp_path / "job" / name for name in ("detect", "truth", "train")]
    edit(runs[0] / "result.json", classes={"unseen": None, "cat": 0.25, "dog": 0.5})
    edit(runs[1] / "result.json", archs=[{"arch": "a", "accuracy": 0.5}])
    verification = json.loads((runs[2] / "net.onnx.proof.json").read_text())["verification"]
    verification["exported_accuracy"] = None
    edit(runs[2] / "net.onnx.proof.json", verification=verification)
    page = render(report_content(runs))
    assert page.index('"bar-name">dog<') < page.index('"bar-name">cat<')
    assert '"bar-name">unseen<' not in page


def test_latencies_are_compared_with_the_tables_prediction(job: Path) -> None:
    before = (job / "check" / "check.jsonl").read_bytes()
    (check,) = report_content([job / "check"])["checks"]
    assert check["n"] == len(check["networks"]) == 6
    assert check["networks"][0]["measured"] == pytest.approx(20.1)
    assert check["networks"][0]["spread"] == pytest.approx(0.1)
    assert (job / "check" / "check.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("file", "section"),
    [
        ("train/result.json", "trainings"),
        ("train/log.jsonl", "trainings"),
        ("evolve/front.json", "searches"),
        ("search/front.json", "strategies"),
        ("rank/rank.json", "rankings"),
        ("check/check.jsonl", "checks"),
        ("truth/result.json", "truths"),
        ("detect/result.json", "detections"),
        ("train/net.onnx.proof.json", "exports"),
    ],
)
def test_a_damaged_file_costs_one_part(job: Path, tmp_path: Path, file: str, section: str) -> None:
    folder = tmp_path / "job"
    shutil.copytree(job, folder)
    path = folder / file
    runs = [folder / name for name in RUNS if name != "check" or section == "checks"]
    whole = report_content(runs)
    wrong = b'{"loss": "low"}\n' if path.suffix == ".jsonl" else b'{"front": [], "archs": [{}]}\n'
    misfits = [json.loads(path.read_text()) | keys for keys in MISFITS.get(file, [])]
    edited = [json.dumps(content).encode() for content in misfits]
    for content in (b"\xff{\n", b"[1, 2]\n", wrong, *edited):
        path.write_bytes(content)
        found = report_content(runs)
        damaged = [part for part in found[section] if "damage" in part]
        assert damaged, content
        for other in SECTIONS - {section, "trainings", "strategies"}:
            assert found[other] == whole[other]
        assert f"<strong>{damaged[0].get('run', '')}</strong> is left out" in render(found) or (
            section == "exports"
        )


def test_an_export_of_two_files_has_its_proof(job: Path, tmp_path: Path) -> None:
    shutil.copytree(job / "train", tmp_path / "train")
    (tmp_path / "train" / "net.ncnn.param").write_bytes(bytes(3))
    (tmp_path / "train" / "net.ncnn.bin").write_bytes(bytes(4))
    proof = (job / "train" / "net.onnx.proof.json").read_bytes()
    (tmp_path / "train" / "net.ncnn.param.proof.json").write_bytes(proof)
    edit(tmp_path / "train" / "run.json", parents={}, relative={})
    ncnn, onnx = report_content([tmp_path / "train"])["exports"]
    assert (ncnn["file"], ncnn["size_bytes"]) == ("net.ncnn.param", 7)
    assert ncnn["proof"] is not None and ncnn["proof"] == onnx["proof"]


def test_a_damaged_run_is_said_and_the_rest_is_there(job: Path, tmp_path: Path) -> None:
    folder = tmp_path / "job"
    shutil.copytree(job, folder)
    (folder / "rank" / "run.json").write_text('{"kind": "rank", ')
    content = report_content([folder])
    (damaged,) = (run for run in content["runs"] if "damage" in run)
    assert damaged["run"] == "rank"
    assert [note for note in content["notes"] if note.startswith("rank: ")]
    assert content["searches"][0]["front"]
    assert "run.json" in render(content)


def test_runs_of_two_spaces_are_allowed_and_said(job: Path, tmp_path: Path) -> None:
    other = make_runs(tmp_path / "other", space="digits:width=0.5")
    content = report_content([job / "evolve", other / "evolve"])
    assert [note for note in content["notes"] if "of 2 spaces" in note]
    assert [note for note in content["notes"] if "over 2 supernets" in note]
    assert len({run["run"] for run in content["runs"]}) == 4
    assert content["asked"].count("2 searches") == 1


def test_an_unfinished_run_shows_what_it_has(job: Path, tmp_path: Path) -> None:
    folder = tmp_path / "job"
    shutil.copytree(job, folder)
    for name in ("evolve/front.json", "train/result.json", "search/front.json"):
        (folder / name).unlink()
    content = report_content([folder / "train", folder / "search"])
    unfinished = [note for note in content["notes"] if "not finished" in note]
    assert len(unfinished) == 3
    assert content["searches"][0]["evaluations"] == 12
    render(content)


def test_a_parent_that_is_gone_is_a_note(job: Path, tmp_path: Path) -> None:
    shutil.copytree(job / "train", tmp_path / "train")
    edit(tmp_path / "train" / "run.json", parents={"supernet": "/nowhere"}, relative={})
    content = report_content([tmp_path / "train"])
    assert content["notes"] == [f"the supernet of {tmp_path / 'train'} is no longer in /nowhere"]


def test_names_cannot_inject_markup(job: Path, tmp_path: Path) -> None:
    harmless = Tags(render(report_content([job])))
    folder = tmp_path / "<b onclick=alert(3)>run"
    make_runs(folder, classes=[HOSTILE, "<b>bold</b>"])
    for run in folder.iterdir():
        stored = json.loads((run / "run.json").read_text())
        if isinstance(stored["settings"].get("space"), dict):
            stored["settings"]["space"]["name"] = HOSTILE
        if "data" in stored["facts"]:
            stored["facts"]["data"]["source"] = HOSTILE
        stored["provenance"] = {"command": HOSTILE}
        (run / "run.json").write_text(json.dumps(stored))
        run.rename(run.with_name(f"{run.name}<img src=x onerror=alert(4)>"))
    content = report_content([folder])
    hostile = Tags(render(content))
    assert hostile.handlers == []
    for tag in ("script", "img", "b"):
        assert hostile.tags.count(tag) == harmless.tags.count(tag), tag
    assert "49" not in content["title"]
    for figure in draw_figures(content).values():
        drawn = json.dumps([figure["data"], figure["layout"], figure.get("variants")])
        assert "<img" not in drawn
        assert "<script" not in drawn


def test_the_page_needs_no_network_and_is_small(job: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_page(report_content([job]), path)
    assert path.stat().st_size < 8_000_000
    assert [a for a in Tags(path.read_text()).addresses if not a.startswith(("#", "data:"))] == []


def test_a_run_whose_name_is_no_text_has_a_page(job: Path, tmp_path: Path) -> None:
    run = tmp_path / os.fsdecode(b"tr\xff")
    shutil.copytree(job / "train", run)
    write_page(report_content([run]), tmp_path / "report.html")
    assert r"tr\udcff" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_page_that_is_too_large_is_refused(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mobilenas.report.page.write._LARGEST", 1000)
    with pytest.raises(BadInput, match="give fewer runs"):
        write_page(report_content([job / "train"]), tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_folders_without_a_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no run, and no folder in it does"):
        report_content([tmp_path])
    with pytest.raises(BadInput, match="there is no such folder"):
        report_content([tmp_path / "none"])
