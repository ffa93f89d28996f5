"""The run of a search by gradient: what it may be created with."""

from pathlib import Path

import pytest

from mobilenas.base.errors import InfeasibleBudget
from mobilenas.cost import CostModel
from mobilenas.cost.budget import Budget
from mobilenas.space import Space, load_space
from mobilenas.stages.search import GradientRun, create_search_run
from mobilenas.strategies.methods import load_search_config

SPACE = "macro:width=0.25,resolution=8"
SETTINGS = ["batch_size=16", "limit=160", "validate_images=160", "epochs=1", "device=cpu"]


def created(path: Path, space: Space, limits: dict[str, float]) -> GradientRun:
    """A run of the digits, which are of ten classes."""
    config = load_search_config("gdas", "cpu", SETTINGS)
    return create_search_run(path, "gdas", space, "digits", 0, config, Budget(limits))


def test_a_budget_is_one_of_the_classes_of_the_data(tmp_path: Path) -> None:
    """Params hang on them, whatever number the space was written for."""
    least = CostModel(load_space(SPACE)).range("params").minimum
    more, fewer = (load_space(f"{SPACE},num_classes={count}") for count in (1000, 2))
    assert created(tmp_path / "more", more, {"params": least}).space.num_classes == 10
    limit = CostModel(fewer).range("params").minimum
    with pytest.raises(InfeasibleBudget):
        created(tmp_path / "fewer", fewer, {"params": limit})
    assert not (tmp_path / "fewer").exists()
