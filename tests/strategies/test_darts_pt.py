"""DARTS-PT: what is decided when, by what was measured, and what is never measured."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import PLANTED, STEPS, Steps, Toy, choices, configured

from mobilenas.base.errors import BadInput
from mobilenas.base.randomness import Stream
from mobilenas.cost import CostModel
from mobilenas.cost.edge_model import EdgeCellCosts, costs_of
from mobilenas.nn.views import View, Views
from mobilenas.space import (
    Choice,
    EdgeCellSpace,
    Space,
    load_listed_space,
    load_network_space,
    load_space,
)
from mobilenas.strategies.choices import Choices
from mobilenas.strategies.darts_pt import DartsPt
from mobilenas.strategies.methods import load_search_config
from mobilenas.strategies.score_log import ScoreLog, Scores
from mobilenas.strategies.search_step import SearchStep
from mobilenas.strategies.searchable import Searchable

NB201 = "nb201:channels=4,cells=1,resolution=8"
Worth = Callable[[Views], float]  # loss of a mixture


def made(of: Choices, **settings: Any) -> DartsPt:
    return DartsPt(of, configured(DartsPt, **settings), seed=0)


def scripted(step: SearchStep, worth: Worth) -> list[Views]:
    """A step that says of each mixture what `worth` does; all that it was asked for."""
    asked: list[Views] = []

    def scores(several: Sequence[Views], batches: range, least: float) -> list[tuple[float, float]]:
        asked.extend(several)
        return [(worth(views), 0.5) for views in several]

    step.scores = scores  # type: ignore[method-assign]
    return asked


def projected(strategy: DartsPt, worth: Worth, steps: Steps | None = None) -> list[Views]:
    """All mixtures that were measured until all is decided."""
    steps = steps or Steps(Toy(len(strategy.choices.ops)), strategy.config)
    asked: list[Views] = []
    for decide, places in strategy.events:
        step = steps(0)
        for place in places:
            found = scripted(step, worth)
            decide(step, place)
            asked += found
    return asked


def missing(view: View, size: int) -> set[int]:
    """The candidates that a view leaves out."""
    return set() if isinstance(view, int) else set(range(size)) - set(view)


def test_a_choice_keeps_what_is_missed_the_most() -> None:
    losses = {(0, 0): 1.0, (0, 1): 3.0, (0, 2): 2.0, (1, 0): 2.5, (1, 1): 2.4, (1, 2): 2.5}

    def worth(views: Views) -> float:
        ((place, index),) = [(p, i) for p, v in enumerate(views) for i in missing(v, 3)]
        return losses[place, index]

    strategy = made(choices(3, 3))
    strategy.events = [(strategy._decide, [1, 0])]
    asked = projected(strategy, worth)
    assert strategy.decided == [1, 0]  # of two alike the first
    assert len(asked) == 6
    # While the second was decided the first was a mixture, and not the other way round.
    assert isinstance(asked[0][0], Mapping) and asked[3][1] == 0
    for views in asked[:3]:  # the others keep their weights
        full = strategy.base.probabilities()[1]
        assert all(torch.equal(w, full[i]) for i, w in views[1].items())  # type: ignore[union-attr]


def test_accuracy_decides_where_it_is_asked_for_and_loss_where_it_ties() -> None:
    strategy = made(choices(3), score="accuracy")
    measured = {"loss": [9, 1, 2], "accuracy": [0.6, 0.5, 0.5]}
    row = Scores(choice="", without=list("abc"), **measured, spent=0)
    assert strategy._order(row) == [0, 1, 2]
    assert made(choices(3))._order(row) == [1, 2, 0]


@pytest.mark.parametrize("removal, kept", [("greedy", [0, 3]), ("ablation", [2, 3])])
def test_a_node_loses_the_edges_that_are_missed_the_least(removal: str, kept: list[int]) -> None:
    """Edges 0 and 1 do the same: either alone is missed little, both together much."""
    node = Choice("inputs of node 4", ("0", "1", "2", "3"), taken=2)
    strategy = made(Choices((Choice("edge", ("a",)),), (node,)), removal=removal)

    def worth(views: Views) -> float:
        left = set(views[1])  # type: ignore[arg-type]
        return 5.0 * (not left & {0, 1}) + 2.0 * (2 not in left) + 3.0 * (3 not in left)

    asked = projected(strategy, worth)
    assert strategy.edges == [kept]
    assert len(asked) == (4 + 3 if removal == "greedy" else 4)


@pytest.mark.parametrize("removal, of_nodes", [("greedy", 3 + 7 + 12), ("ablation", 3 + 4 + 5)])
def test_how_much_is_measured_in_darts(removal: str, of_nodes: int) -> None:
    space = load_listed_space("darts:channels=4,cells=3,resolution=8")
    searchable = Searchable(EdgeCellCosts(space))  # type: ignore[arg-type]
    strategy = made(searchable.choices, removal=removal)
    steps = Steps(Toy(1), strategy.config)
    steps.searchable = searchable
    asked = projected(strategy, lambda views: float(sum(map(len, views[28:]))), steps)  # type: ignore[arg-type]
    assert len(strategy.events) == 14 + 3  # both types of cells at once
    assert len(asked) == 2 * (14 * 7 + of_nodes)  # `none` is no op of an arch
    assert all(len(edges) == 2 for edges in strategy.edges)
    arch = strategy.derive(searchable, {})
    for cell, edges in zip(arch.cells, (strategy.edges[:4], strategy.edges[4:]), strict=True):  # type: ignore[union-attr]
        assert [[start for _, start in node] for node in cell] == edges


def test_a_choice_of_one_is_never_measured() -> None:
    strategy = made(choices(1, 3, 1))
    assert strategy.decided == [0, None, 0]
    assert len(projected(strategy, lambda views: 0.0)) == 3


def test_decided_parameters_have_no_gradient_and_do_not_decay() -> None:
    strategy = made(choices(3, 3), arch_weight_decay=0.1)
    strategy.decided[0] = PLANTED
    step = Steps(Toy(2), strategy.config)(0)
    loss = step.loss(strategy.views(step, Stream.ARCH_STEP), "held")
    first, second = step.gradient(loss, strategy.parameters)
    assert not first.any() and second.any()
    before = strategy.parameters[0].detach().clone()
    strategy.learn(step)
    assert torch.equal(strategy.parameters[0], before)
    assert strategy.probabilities()[0].tolist() == [0, 1, 0]


def test_a_blank_supernet_has_equal_weights_that_nothing_learns() -> None:
    strategy = made(choices(3, 3), blank=True)
    before = [alpha.detach().clone() for alpha in strategy.parameters]
    steps = Steps(Toy(2), strategy.config)
    views = strategy.views(steps(0), Stream.WEIGHT_STEP)
    assert {float(w) for view in views for w in view.values()} == {float(torch.tensor(1 / 3))}  # type: ignore[union-attr]
    for n in range(3):
        strategy.step(steps(n))
    assert all(torch.equal(a, b) for a, b in zip(before, strategy.parameters, strict=True))


def test_projections_are_at_equal_distances() -> None:
    strategy = made(Choices(tuple(Choice(f"block {n}", ("a", "b", "c")) for n in range(2))))
    steps = Steps(Toy(2), strategy.config)
    at = []
    for n in range(STEPS):
        done = strategy.done
        strategy.step(steps(n))
        at += [n] * (strategy.done - done)
    assert at == [STEPS // 3, 2 * STEPS // 3]
    short = made(strategy.choices)  # fewer steps than choices: all the same
    step = steps(0)
    step.steps, step.learnt = 1, 0
    short.step(step)
    assert None not in short.decided


@pytest.mark.parametrize("name", ["macro:width=0.25,resolution=8", "digits", NB201])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.7])
def test_a_budget_is_within_reach_at_every_step(name: str, share: float) -> None:
    """The dearest candidates are missed the most."""
    space = load_network_space(name)
    assert isinstance(space, Space | EdgeCellSpace)
    costs, cost = costs_of(space), "params" if name == NB201 else "flops"
    whole, parts = costs.range(cost), costs.parts(cost)[1]
    limit = whole.minimum + share * (whole.maximum - whole.minimum)
    limits = {cost: limit}
    if "memory" in costs.costs:
        limits["memory"] = costs.range("memory").minimum * 1.2
    searchable = Searchable(costs)
    strategy = made(searchable.choices)
    steps = Steps(Toy(1), strategy.config)
    steps.searchable = searchable
    steps.cost = Steps(Toy(1), strategy.config, limits=limits, space=space).cost

    def worth(views: Views) -> float:
        sizes = searchable.choices.sizes
        gone = [(p, i) for p, size in enumerate(sizes) for i in missing(views[p], size)]
        return float(sum(parts[place][index] for place, index in gone))

    step = steps(0)
    scripted(step, worth)
    for decide, (place,) in strategy.events:
        decide(step, place)
        arch = strategy.derive(searchable, limits)
        assert arch is not None and costs.of(arch)[cost] <= limit  # type: ignore[arg-type]
        genes = space.encode(arch)  # type: ignore[arg-type]
        assert all(d is None or d == g for d, g in zip(strategy.decided, genes, strict=True))


def test_of_several_paths_the_expansion_is_decided_first_then_paths_go() -> None:
    """Up to two of three kernels. The loss is 4 more without expansion 6, then 1, 2, 3 more without
    its kernels 7, 5, 3, and 0.1 more without two paths at once.
    """
    choice = Searchable(CostModel(load_space("digits"))).choices.ops[0]

    def worth(views: Views) -> float:
        of_6 = [name for name in map(choice.candidates.__getitem__, views[0]) if name[1] == "6"]  # type: ignore[arg-type]
        lost = [n + 1 for n, k in enumerate("753") if not any(k in name[3:] for name in of_6)]
        return 4.0 * (not of_6) + sum(lost) + 0.1 * ("e6k35" not in of_6)

    strategy = made(Choices((choice,)))
    asked = projected(strategy, worth)
    assert len(asked) == 2 + 3 + 3  # expansions, paths, what is left of two of them
    assert choice.candidates[strategy.decided[0]] == "e6k35"  # type: ignore[index]


def test_scores_of_a_killed_search_are_not_measured_again(tmp_path: Path) -> None:
    file = tmp_path / "projections.jsonl"
    strategy = made(choices(3, 3))
    strategy.scores = ScoreLog(file)
    projected(strategy, lambda views: float(len(missing(views[0], 3))))
    before = file.read_bytes()
    again = made(choices(3, 3))
    again.scores = ScoreLog(file)
    assert projected(again, lambda views: math.nan) == []
    assert again.decided == strategy.decided and file.read_bytes() == before
    other = made(choices(3, 2))
    other.scores = ScoreLog(file)
    with pytest.raises(BadInput, match="another search"):
        projected(other, lambda views: 0.0)


@pytest.mark.parametrize("short", [["loss"], ["accuracy"], ["without"]])
def test_scores_of_unequal_numbers_are_refused(short: list[str], tmp_path: Path) -> None:
    file = tmp_path / "projections.jsonl"
    row: dict[str, Any] = {"choice": "block", "without": ["0", "1"], "loss": [1.0, 2.0]}
    row |= {"accuracy": [0.5, 0.4], "spent": 1.0}
    for key in short:
        row[key] = row[key][:1]
    file.write_text(json.dumps(row) + "\n")
    with pytest.raises(BadInput, match=r"projections\.jsonl line 1: .*one length"):
        ScoreLog(file)


def test_a_line_that_lacks_candidates_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "projections.jsonl"
    row = {"choice": "block", "without": ["0", "1"], "loss": [1.0, 2.0], "accuracy": [0.5, 0.4]}
    file.write_text(json.dumps(row | {"spent": 1.0}) + "\n")
    strategy = made(choices(3))
    strategy.scores = ScoreLog(file)
    with pytest.raises(BadInput, match=r"line 1 has 2 scores of block, where there must be 3"):
        projected(strategy, lambda views: 0.0)


def test_measuring_leaves_running_statistics_and_counts_forwards() -> None:
    space = load_space("digits:width=0.5,resolution=8")
    searchable = Searchable(CostModel(space))
    strategy = made(searchable.choices)
    module = DartsPt.supernet(searchable, strategy.config, torch.Generator().manual_seed(0))
    steps = Steps(module, strategy.config, space=space)
    images = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    steps.held = lambda n: (images, torch.arange(16) % 4)  # type: ignore[assignment]
    before = {name: value.clone() for name, value in module.state_dict().items()}
    step = steps(0)
    sizes = searchable.choices.sizes
    less = strategy.mixture(left=(0, range(1, sizes[0])))
    first = step.scores([strategy.mixture(), less], range(2))
    assert first[0] != first[1]
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    one = 2 * 16 / 3 * sum(sizes) / len(sizes)  # a third of forward and backward
    assert step.spent == pytest.approx(2 * one - 2 * 16 / 3 / len(sizes))
    assert step.scores([strategy.mixture()], range(2))[0] == first[0]


@pytest.mark.parametrize("setting", ["score=f1", "removal=all", "score_images=0", "blank=2"])
def test_settings_that_it_cannot_have(setting: str) -> None:
    with pytest.raises(BadInput, match=setting.split("=")[0]):
        load_search_config("darts-pt", "cpu", [setting])
