"""The scripts of examples/ run as they are, and stay short."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
from helpers import ROOT

from mobilenas.base.errors import BadInput
from mobilenas.cost.budget import Budget
from mobilenas.space import load_space
from mobilenas.stages.evolve import Search, run_evolve
from mobilenas.stages.gradient_run import (
    GradientSettings,
    create_search_run,
    open_parent,
    open_search_run,
    resume_search_run,
)
from mobilenas.strategies.methods import load_search_config

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 60


def test_a_space_and_a_budget_of_ones_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script("own_space").main(tmp_path)
    first, *front = capsys.readouterr().out.splitlines()
    assert first == "576 archs of 190,848 to 938,112 FLOPs, 31 % of them within the budget"
    assert front
    stored = json.loads((tmp_path / "evolve/front.json").read_text())
    assert all(row["params"] <= 20_000 for row in stored["front"])
    assert stored["settings"]["space"]["name"] == "small_digits"


def test_an_objective_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = script("own_objective")
    example.main(tmp_path)
    assert " mJ  e" in capsys.readouterr().out
    stored = json.loads((tmp_path / "evolve/front.json").read_text())
    space = load_space("digits:candidates.max_paths=1,resolution=16")
    energy = example.read_energy(ROOT / "examples/energy.csv", space)
    for row in stored["front"]:
        blocks = zip(energy.blocks, row["arch"].split("_"), strict=True)
        sum_of_csv = energy.fixed + sum(costs[name] for costs, name in blocks)
        assert row[example.ENERGY] == pytest.approx(sum_of_csv)
        assert row[example.ENERGY] <= 12
    energies = [row[example.ENERGY] for row in stored["front"]]
    assert energies == sorted(energies)
    assert "energy_mj@board" in (tmp_path / "evolve/history.csv").read_text()
    # A resume with other numbers would go on with what was selected by these.
    other = example.BlockCosts(example.ENERGY, energy.blocks, energy.fixed + 1)
    budget = Budget({example.ENERGY: 12.0}, own=(other,))
    search = Search(
        tmp_path / "supernet", budget, f"accuracy,{example.ENERGY}", population=8, generations=8
    )
    with pytest.raises(BadInput, match="own_costs"):
        run_evolve(search, tmp_path / "evolve", resume=True)


def test_a_strategy_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = script("own_strategy")
    example.main(tmp_path)
    assert "FLOPs" in capsys.readouterr().out
    (row,) = json.loads((tmp_path / "front.json").read_text())["front"]
    assert row["flops"] <= 1.2e6
    with pytest.raises(BadInput, match="strategy 'Independent': there is none of this name"):
        open_search_run(tmp_path)
    run = resume_search_run(tmp_path, {"strategy": example.Independent})
    assert run.folder.read(GradientSettings).strategy == "Independent"
    with pytest.raises(BadInput, match="strategy"):
        resume_search_run(tmp_path, {"strategy": "gdas"})
    # By the command, and in a script that knows the class.
    words = "is a search by Independent, a class of your own: --from .* METHODS"
    with pytest.raises(BadInput, match=words):
        open_parent("darts-pt", tmp_path, None)
    config = load_search_config("darts-pt", "cpu", [])
    with pytest.raises(BadInput, match=words):
        create_search_run(
            tmp_path / "pt", "darts-pt", run.space, "digits", 0, config, Budget(), parent=run
        )


def test_costs_of_ones_own_are_not_for_a_search_by_gradient(tmp_path: Path) -> None:
    example = script("own_objective")
    space = load_space("digits:candidates.max_paths=1,resolution=16")
    energy = example.read_energy(ROOT / "examples/energy.csv", space)
    config = script("own_strategy").IndependentConfig()
    with pytest.raises(BadInput, match="energy_mj@board: costs of your own are for evolve"):
        create_search_run(
            tmp_path / "run", "gdas", space, "digits", 0, config, Budget(own=(energy,))
        )
