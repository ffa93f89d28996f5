"""Files of a search by gradient that were changed by hand are refused in one line."""

import json
from pathlib import Path
from typing import Any

import pytest

from mobilenas.base.errors import BadInput, InfeasibleBudget
from mobilenas.cost.budget import Budget
from mobilenas.space import load_space
from mobilenas.stages.gradient_run import GradientRun, create_search_run, open_search_run
from mobilenas.stages.search import derive_again, run_search
from mobilenas.stages.seeds import search_seeds
from mobilenas.strategies.methods import load_search_config
from mobilenas.train.checkpoint import save_checkpoint
from mobilenas.workers import WorkersAsked


def created(path: Path, strategy: str = "gdas") -> GradientRun:
    config = load_search_config(strategy, "cpu", ["batch_size=8", "workers=0", "device=cpu"])
    space = load_space("macro:width=0.25,resolution=8")
    return create_search_run(path, strategy, space, "digits", 0, config, Budget())


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("seed", -1, "settings.seed"),
        ("seed", 2**70, "settings.seed"),
        ("inherits", {"strategy": "darts", "config": {}}, "inherits: strategy gdas does not start"),
    ],
)
def test_settings(key: str, value: Any, words: str, tmp_path: Path) -> None:
    _change(created(tmp_path / "run").folder.path / "run.json", key, value)
    with pytest.raises(BadInput, match=words):
        open_search_run(tmp_path / "run")


def test_a_strategy_that_must_start_from_another_search(tmp_path: Path) -> None:
    path = created(tmp_path / "run", "darts").folder.path
    config = load_search_config("darts-pt", "cpu", []).model_dump(mode="json")
    _change(path / "run.json", "config", config)
    _change(path / "run.json", "strategy", "darts-pt")
    with pytest.raises(BadInput, match="inherits: strategy darts-pt does not start"):
        open_search_run(path)


@pytest.mark.parametrize("limit", [1, 0, -5])
def test_a_budget_that_no_arch_meets(limit: int, tmp_path: Path) -> None:
    _change(created(tmp_path / "run").folder.path / "run.json", "limits", {"flops": limit})
    with pytest.raises(InfeasibleBudget, match="flops"):
        open_search_run(tmp_path / "run")


@pytest.mark.parametrize("names", [[], ["bogus"]])
def test_candidates_that_went_on(names: list[str], tmp_path: Path) -> None:
    run = created(tmp_path / "run", "pdarts")
    (tmp_path / "run" / "stage-1").mkdir()
    stored = {"kept": {"block 1": names}, "spent": 1.0, "seconds": 1.0}
    (tmp_path / "run" / "stage-1" / "kept.json").write_text(json.dumps(stored))
    with pytest.raises(BadInput, match=r"kept\.json: kept\.block 1: must be some of id, "):
        run_search(run)


@pytest.mark.parametrize(
    "result",
    [[], {}, {"front": []}, {"front": [3]}, {"standing": 3}, {"standing": {"cifar10": []}}],
    ids=str,
)
def test_what_a_seed_found(result: Any, tmp_path: Path) -> None:
    whole = {"front": [{"arch": "id", "flops": 3}], "settings": {"limits": {}}}
    if isinstance(result, dict) and result:
        result = whole | result

    def start(path: Path, seed: int) -> GradientRun:
        run = created(path)
        (path / "front.json").write_text(json.dumps(result))
        return run

    with pytest.raises(BadInput, match=r"front\.json"):
        search_seeds(start, tmp_path, [0], [], WorkersAsked.parse("1"), compared=True)


def test_a_checkpoint(tmp_path: Path) -> None:
    run = created(tmp_path / "run")
    (tmp_path / "run" / "front.json").write_text("{}")
    save_checkpoint(tmp_path / "run" / "checkpoint.pt", {"task": {"strategy": {}}})
    with pytest.raises(BadInput, match=r"checkpoint\.pt does not fit what .*run\.json says"):
        derive_again(run.folder.path, {})


def _change(file: Path, key: str, value: Any) -> None:
    stored = json.loads(file.read_text())
    stored["settings"][key] = value
    file.write_text(json.dumps(stored))
