"""What a supernet trains before its strategy, and how many steps spend the budget of passes."""

import math
from itertools import pairwise
from typing import Any

import pytest
from helpers import TINY_SPACE

from mobilenas.base.errors import BadInput
from mobilenas.cost import CostModel
from mobilenas.space import Arch, Space, load_space
from mobilenas.strategies import Strategy, Uniform, make_strategy
from mobilenas.strategies.phases import Phase, first_phases, growing_parts, phase_steps
from mobilenas.strategies.supernet_task import SupernetTask
from mobilenas.train.config import SupernetConfig, load_supernet_config
from mobilenas.train.recipe import Objective

TINY = load_space(TINY_SPACE)
S1 = "s1:candidates.max_paths=2,candidates.skip=true"
STRATEGIES = ["fair", "uniform", "sandwich"]


def make_task(space: Space = TINY, **changes: Any) -> tuple[SupernetTask, Strategy]:
    config = SupernetConfig.model_validate(
        {"passes": 6, "batch_size": 8, "device": "cpu"} | changes
    )
    strategy = make_strategy(config.strategy, space, 3, config.sandwich_random)
    first = first_phases(config, space, 3)
    return SupernetTask(strategy, config, Objective(config, 10, 3, None), 1000, first), strategy


def steps_of(reference: str, name: Any, passes: float, num_images: int) -> tuple[int, Strategy]:
    strategy = make_strategy(name, load_space(reference), 0)
    (steps,) = phase_steps([Phase(strategy, passes)], num_images, batch_size=8)
    return steps, strategy


@pytest.mark.parametrize("reference", ["s1", "s1:candidates.max_paths=3", "s3", "macro"])
@pytest.mark.parametrize("passes", [0.001, 1, 7.5])
def test_steps_spend_the_budget_in_whole_super_steps(reference: str, passes: float) -> None:
    steps, strategy = steps_of(reference, "fair", passes, 1000)
    assert steps % strategy.steps_per_superstep == 0
    spent, one = (n * 8 * strategy.passes_per_step for n in (steps, strategy.steps_per_superstep))
    assert passes * 1000 <= spent < passes * 1000 + one


def test_strategies_spend_the_same_budget() -> None:
    steps, strategy = steps_of("macro", "uniform", 3, 800)
    assert isinstance(strategy, Uniform)
    assert steps == 300
    steps, strategy = steps_of("macro", "fair", 3, 800)
    assert steps * strategy.passes_per_step == 300


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("alone", [0, 0.4, 2])
@pytest.mark.parametrize("shrink", [0, 0.3, 2.5])
def test_the_budget_has_the_passes_of_all_phases(name: Any, alone: float, shrink: float) -> None:
    task, strategy = make_task(strategy=name, warmup_largest_passes=alone, shrink_passes=shrink)
    archs = [task.archs(n) for n in range(task.steps)]
    spent = [sum(map(len, archs[:n])) * 8 / 1000 for n in range(task.steps + 1)]
    largest = [CostModel(TINY).largest("flops")]
    first = math.ceil(alone * 125)
    assert archs[:first] == [largest] * first
    *_, begun, end = task.starts
    superstep = strategy.passes_per_step * strategy.steps_per_superstep * 8 / 1000
    assert alone + shrink <= spent[begun] < alone + shrink + superstep
    assert 6 <= spent[end] < 6 + superstep
    assert archs[begun:] == [strategy.archs(n) for n in range(end - begun)]
    assert [task.row(n)["passes"] for n in range(end + 1)] == pytest.approx(spent)


def test_without_phases_the_position_is_the_step() -> None:
    task, strategy = make_task()
    assert [task.position(n) for n in range(50)] == list(range(50))
    assert task.archs(7) == strategy.archs(7)


def test_the_last_phase_has_a_step_at_least() -> None:
    alone, uniform = (make_strategy("uniform", TINY, 0) for _ in range(2))
    assert phase_steps([Phase(alone, 1), Phase(uniform, 1.001)], 1004, batch_size=8) == [126, 1]


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("reference", [S1, "macro", "proxyless"])
def test_shrinking_admits_kernels_then_depths_then_expansions(reference: str, name: Any) -> None:
    space = load_space(reference)
    task, _ = make_task(space, strategy=name, warmup_largest_passes=1, shrink_passes=3)
    largest = max(space.blocks[1].expansions)

    def trained(phase: int) -> list[Arch]:
        return [arch for n in range(*task.starts[phase : phase + 2]) for arch in task.archs(n)]

    for phase, (identities, smaller) in enumerate(
        [(False, False), (False, False), (True, False), (True, True)]
    ):
        chosen = {c for arch in trained(phase) for c in arch.blocks}
        assert any(c.is_identity for c in chosen) == identities
        assert any(c.expansion < largest for c in chosen if not c.is_identity) == smaller
    assert len(set(trained(0))) == 1
    of_largest = {c for b in space.blocks for c in b.candidates if c.expansion == largest}
    assert {c for arch in trained(1) for c in arch.blocks} == of_largest


def test_parts_grow_and_have_the_costs_of_the_space() -> None:
    space = load_space(S1)
    parts = growing_parts(space)
    assert len(parts) == 2
    for smaller, larger in pairwise([*parts, space]):
        for few, many in zip(smaller.blocks, larger.blocks, strict=True):
            assert set(few.candidates) <= set(many.candidates)
    (arch,) = make_strategy("uniform", parts[0], 0).archs(0)
    assert isinstance(arch, Arch)
    assert CostModel(parts[0]).flops(arch) == CostModel(space).flops(arch)
    assert parts[0].to_dict() == space.to_dict()
    assert len(growing_parts(load_space("fairnas"))) == 1  # whose blocks cannot be left out


def test_a_space_with_nothing_to_shrink_is_refused() -> None:
    space = load_space("s2:candidates.expansions=[6]")
    config = SupernetConfig(passes=6, shrink_passes=2)
    with pytest.raises(BadInput, match=r"shrink_passes 2: .*one expansion .*must be 0"):
        first_phases(config, space, 0)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["warmup_largest_passes=6"], "warmup_largest_passes 6 must be less than the 6 passes"),
        (["shrink_passes=7.5"], r"shrink_passes 7.5 must be less than the 6 passes"),
        (
            ["warmup_largest_passes=2", "shrink_passes=4"],
            "warmup_largest_passes 2 and shrink_passes 4 must be less than the 6 passes",
        ),
    ],
)
def test_phases_as_long_as_the_training_are_refused(keys: list[str], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        load_supernet_config("default", ["passes=6", *keys])
