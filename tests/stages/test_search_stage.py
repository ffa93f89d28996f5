"""The run of a search by gradient: what it is created with, and opened again with."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tables import made_up_table

from mobilenas.base.errors import BadInput, InfeasibleBudget
from mobilenas.cost import CostModel
from mobilenas.cost.budget import Budget, LatencyLimit
from mobilenas.evaluate.standing import Standing
from mobilenas.nn import Network
from mobilenas.nn.saved import NetworkInfo, save_network
from mobilenas.report.text import seeds_table
from mobilenas.space import load_space
from mobilenas.stages import search, seeds
from mobilenas.stages.export import Target, run_export_searched
from mobilenas.stages.gradient_run import (
    GradientRun,
    create_search_run,
    open_parent,
    open_search_run,
    resume_search_run,
)
from mobilenas.stages.search import derive_again, run_search
from mobilenas.stages.train import Asked, create_network_run, training_settings
from mobilenas.strategies.config import SearchConfig
from mobilenas.strategies.methods import load_search_config
from mobilenas.workers import WorkersAsked

SPACE = "macro:width=0.25,resolution=8"


def config(strategy: str, settings: Sequence[str] = ()) -> SearchConfig:
    small = ["batch_size=8", "epochs=1", "weights_first=0", "workers=0", "device=cpu"]
    return load_search_config(strategy, "cpu", [*small, *settings])


def created(
    path: Path,
    *settings: str,
    strategy: str = "gdas",
    space: str = SPACE,
    data: str = "digits",
    budget: Budget | None = None,
    parent: GradientRun | None = None,
    seed: int = 0,
) -> GradientRun:
    made = config(strategy, settings)
    found = parent.space if parent else load_space(space)
    return create_search_run(path, strategy, found, data, seed, made, budget or Budget(), parent)


@pytest.fixture
def photos(tmp_path: Path) -> str:
    """A folder of thirty images of each of two classes, larger than they are searched at."""
    rng = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(30):
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    return str(tmp_path / "photos")


def test_a_budget_is_one_of_the_classes_of_the_data(tmp_path: Path) -> None:
    """Params hang on them, whatever number the space was written for."""
    least = CostModel(load_space(SPACE)).range("params").minimum
    more, fewer = (f"{SPACE},num_classes={count}" for count in (1000, 2))
    run = created(tmp_path / "more", space=more, budget=Budget({"params": least}))
    assert run.space.num_classes == 10
    limit = CostModel(load_space(fewer)).range("params").minimum
    with pytest.raises(InfeasibleBudget):
        created(tmp_path / "fewer", space=fewer, budget=Budget({"params": limit}))
    assert not (tmp_path / "fewer").exists()


def test_images_that_are_inherited_are_prepared_as_they_were(tmp_path: Path, photos: str) -> None:
    """Else they would not be those of the run when it is opened again."""
    prepared = ["eval_crop=0.875", "stream=true", "validate_images=28"]
    run = created(tmp_path / "darts", *prepared, strategy="darts", data=photos)
    run_search(run)
    parent = open_parent("darts-pt", tmp_path / "darts", None)
    assert isinstance(parent, GradientRun)
    for given in ("eval_crop=1", "stream=false", "validate_images=20", "limit=30"):
        with pytest.raises(BadInput, match=f"{given.split('=')[0]} .*left out with --from"):
            created(tmp_path / "x", given, strategy="darts-pt", data=photos, parent=parent)
    out = tmp_path / "projected"
    created(out, "validate_images=28", strategy="darts-pt", data=photos, parent=parent)
    again = open_search_run(out)
    assert again.images.config.model_dump(include={"eval_crop", "stream", "validate_images"}) == {
        "eval_crop": 0.875,
        "stream": True,
        "validate_images": 28,
    }
    resume_search_run(out, {"config": config("darts-pt")})
    with pytest.raises(BadInput, match=r"another config\.eval_crop"):
        resume_search_run(out, {"config": config("darts-pt", ["eval_crop=0.5"])})


def test_a_latency_table_that_moved_is_found(tmp_path: Path) -> None:
    """With the run, and else by a budget that names it."""
    project = tmp_path / "project"
    project.mkdir()
    table = made_up_table(load_space(SPACE), wobble=0.5).model_dump_json()
    (project / "made-up.json").write_text(table)
    asked = LatencyLimit(str(project / "made-up.json"), 100.0)
    created(project / "run", budget=Budget(latencies=(asked,)))
    project.rename(tmp_path / "other")
    run = tmp_path / "other" / "run"
    assert open_search_run(run).searchable.costs.tables[0].name == "made-up"
    alone = (tmp_path / "other" / "made-up.json").rename(tmp_path / "made-up.json")
    with pytest.raises(BadInput, match=r"latency table made-up of .* give its --latency"):
        open_search_run(run)
    budget = Budget(latencies=(LatencyLimit(str(alone), 100.0),))
    assert resume_search_run(run, {"budget": budget}).settings.limits == {"latency_ms@made-up": 100}
    alone.write_text(table.replace("made-up", "other"))
    with pytest.raises(BadInput, match="made-up"):
        resume_search_run(run, {"budget": budget})


def test_an_export_needs_no_latency_table(tmp_path: Path) -> None:
    table = made_up_table(load_space(SPACE), wobble=0.5).model_dump_json()
    (tmp_path / "made-up.json").write_text(table)
    asked = LatencyLimit(str(tmp_path / "made-up.json"), 100.0)
    small = ("limit=40", "epochs=0.4")
    run_search(created(tmp_path / "run", *small, budget=Budget(latencies=(asked,))))
    (tmp_path / "made-up.json").unlink()
    report = run_export_searched(tmp_path / "run", Target())
    assert report.to_dict()["metadata"]["top1_accuracy_on"] == "355 test images"


def test_what_a_search_was_compared_by_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is only shown again; and a comparison may come after the search."""
    found = Standing(0.9, 2, 10, {"flops": 0.01}, 0.8, 0.1, 0.85)
    monkeypatch.setattr(search, "standing_of", lambda *_: found)
    runs = [created(tmp_path / f"seed-{n}", "limit=40", "epochs=0.4", seed=n) for n in (0, 1)]
    run_search(runs[0], {"cifar10": None})  # type: ignore[dict-item]
    assert run_search(runs[0])["standing"] == {"cifar10": asdict(found)}
    run_search(runs[1])
    left: list[Path] = []
    monkeypatch.setattr(seeds, "finish_runs", lambda paths, *_: left.extend(paths) or {})
    for compared in (False, True):
        rows, _ = seeds.search_seeds(
            lambda _, seed: runs[seed],
            tmp_path,
            [0, 1],
            [],
            WorkersAsked.parse("1", None),
            compared=compared,
        )
        assert left == ([runs[1].folder.path] if compared else [])
    table = seeds_table(rows)
    assert "90.00 %" in table and "over" not in table  # one of them alone


def test_weights_of_a_search_are_tuned_on_what_they_have_seen(
    tmp_path: Path, photos: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether the network is given by its folder or its file, and wherever the images are now."""
    run = created(tmp_path / "search", "validate_images=10", data=photos)
    arch = run.space.sample(np.random.default_rng(0))
    network, data = Network(run.space, arch), run.images.data  # type: ignore[arg-type]
    saved = tmp_path / "search" / "network"
    save_network(network, saved, NetworkInfo(data.classes, data.mean, data.std))
    moved = str(Path(photos).rename(tmp_path / "pictures"))
    small = ("batch_size=8", "workers=0", "device=cpu")
    caplog.set_level(logging.INFO)
    for number, weights in enumerate((saved, saved / "model.safetensors")):
        asked = Asked(weights=weights, data=moved, resolution=12, seed=1, overrides=small)
        tuned = create_network_run(tmp_path / f"tuned-{number}", training_settings(asked))
        assert tuned.images.splits.validate.tolist() == run.images.splits.validate.tolist()
        assert "validating on 10 images in place of 12: " in caplog.text  # a fifth would be 12
        caplog.clear()


@pytest.mark.parametrize("strategy, space", [("pdarts", SPACE), ("drnas", SPACE)])
def test_a_finished_search_derives_again_within_other_limits(
    strategy: str, space: str, tmp_path: Path
) -> None:
    """As one that had these from the start, and no term for costs."""
    limits = {"flops": CostModel(load_space(space)).range("flops").median}
    settings = ("limit=40", "epochs=0.4", "cost_weight=0", "arch_lr=0.3")
    of_pdarts = ("skip_limit=0",) if strategy == "pdarts" else ()
    found = []
    for name, budget in (("free", Budget()), ("limited", Budget(limits))):
        run = created(
            tmp_path / name, *settings, *of_pdarts, strategy=strategy, space=space, budget=budget
        )
        found.append(run_search(run)["front"][0]["arch"])
    (tmp_path / "free" / "splits.json").unlink()  # no images are read
    assert str(derive_again(tmp_path / "free", {})) == found[0]
    assert str(derive_again(tmp_path / "free", limits)) == found[1] != found[0]
    with pytest.raises(InfeasibleBudget) as refused:
        derive_again(tmp_path / "free", {"flops": 1})
    with pytest.raises(InfeasibleBudget) as at_first:
        created(tmp_path / "none", strategy=strategy, space=space, budget=Budget({"flops": 1}))
    assert str(refused.value) == str(at_first.value) and "ranges from" in str(refused.value)
    with pytest.raises(BadInput, match="no cost 'flop'"):
        derive_again(tmp_path / "free", {"flop": 1})


def test_an_arch_of_candidates_that_were_dropped_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As the least arch is, whatever the stages of the search kept."""
    settings = ("limit=40", "epochs=0.4", "arch_lr=0.3")
    least = {"flops": CostModel(load_space(SPACE)).range("flops").minimum}
    run_search(created(tmp_path / "free", *settings, strategy="pdarts"))
    assert "dropped" not in caplog.text
    run_search(created(tmp_path / "least", *settings, strategy="pdarts", budget=Budget(least)))
    (line,) = [each for each in caplog.messages if "dropped" in each]
    assert line.startswith("within the budget only") and ": block " in line
