"""DARTS-PT over searches of several strategies: what it goes on from, learns and derives."""

import pytest
import torch
from test_darts_pt import made, projected
from toys import STEPS, Steps, Toy, choices, configured

from mobilenas.cost import CostModel
from mobilenas.nn.views import Views
from mobilenas.space import Arch, Choice, load_space
from mobilenas.strategies.choices import Choices
from mobilenas.strategies.darts_pt import DartsPt
from mobilenas.strategies.drnas import Drnas
from mobilenas.strategies.gaea import Gaea
from mobilenas.strategies.learned import LearnedStrategy
from mobilenas.strategies.pc_darts import PcDarts
from mobilenas.strategies.searchable import Searchable


def test_it_goes_on_from_the_parameters_of_another_strategy() -> None:
    base = LearnedStrategy(choices(3, 3), configured(LearnedStrategy), seed=5)
    strategy = made(choices(3, 3))
    strategy.inherit(base)
    pairs = zip(strategy.probabilities(), base.probabilities(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    steps = Steps(Toy(2), strategy.config)
    strategy.learn(steps(0))
    assert strategy.parameters[0] is base.parameters[0]


@pytest.mark.parametrize("blank", [False, True])
def test_what_was_pruned_is_not_offered(blank: bool) -> None:
    """Though it would be missed the most."""
    base = Drnas(choices(4, 4), configured(Drnas), seed=0)
    base.kept = [torch.tensor([1, 3]), torch.tensor([2])]
    strategy = made(choices(4, 4), blank=blank)
    strategy.inherit(base)
    assert [(p > 0).nonzero().flatten().tolist() for p in strategy.probabilities()] == [[1, 3], [2]]

    def worth(views: Views) -> float:
        return 9.0 * (0 not in views[0]) + 2.0 * (1 not in views[0])  # type: ignore[operator]

    strategy.events = [(strategy._decide, [0, 1])]
    assert len(projected(strategy, worth)) == 2
    assert strategy.decided == [1, 2]


@pytest.mark.parametrize("eta, expected", [(None, 2000 / STEPS), (0.3, 0.3)])
def test_over_gaea_it_learns_by_the_rate_of_gaea(eta: float | None, expected: float) -> None:
    """As a search by GAEA of as many steps would, from the same parameters."""
    moved = []
    for kind in (Gaea, DartsPt):
        gaea = Gaea(choices(3, 3), configured(Gaea, eta=eta), seed=0)
        strategy: LearnedStrategy = gaea
        if kind is DartsPt:
            strategy = projection = made(choices(3, 3), arch_lr=5.0)
            projection.inherit(gaea)
        torch.manual_seed(0)
        strategy.learn(Steps(Toy(2), strategy.config)(0))
        assert gaea.eta == expected
        assert strategy.reach(STEPS) == gaea.reach(STEPS)
        moved.append([p.detach() for p in gaea.parameters])
    assert all(torch.equal(a, b) for a, b in zip(*moved, strict=True))


@pytest.mark.parametrize("kind, moves", [(PcDarts, True), (LearnedStrategy, False)])
def test_weights_of_edges_learn_until_each_node_has_its_own(
    kind: type[LearnedStrategy], moves: bool
) -> None:
    of = Choices((Choice("edge", ("a", "b")),), (Choice("node", ("0", "1", "2"), 2),))
    strategy = made(of)
    strategy.inherit(kind(of, configured(kind), seed=0))
    strategy.decided = [0]
    learnt = []
    strategy.arch_loss = lambda step: (
        learnt.append(step)
        or sum(  # type: ignore
            parameter.square().sum() for parameter in strategy.parameters
        )
    )
    step = Steps(Toy(1), strategy.config)(0)
    strategy.learn(step)
    assert bool(learnt) == moves
    strategy.edges = [[0, 2]]
    strategy.learn(step)
    assert len(learnt) == moves


@pytest.mark.parametrize("kind, weights", [(PcDarts, [1 / 2, 1 / 3]), (LearnedStrategy, [1, 1])])
def test_a_blank_supernet_has_edges_as_they_were_trained(
    kind: type[LearnedStrategy], weights: list[float]
) -> None:
    nodes = (Choice("node 2", ("0", "1")), Choice("node 3", ("0", "1", "2")))
    of = Choices(tuple(Choice(f"edge {n}", ("a", "b")) for n in range(5)), nodes)
    strategy = made(of, blank=True)
    strategy.inherit(kind(of, configured(kind), seed=0))
    found = [node.tolist() for node in strategy.inputs()]
    assert found == [pytest.approx([w] * n) for w, n in zip(weights, (2, 3), strict=True)]


def test_over_drnas_the_mean_is_measured_and_no_draw() -> None:
    base = Drnas(choices(3), configured(Drnas), seed=0)
    with torch.no_grad():
        base.parameters[0].copy_(torch.tensor([1.0, 0.0, 2.0]))  # concentrations 2, 1 and 3
    strategy = made(choices(3))
    strategy.inherit(base)
    (view,) = strategy.mixture()
    assert [float(w) for w in view.values()] == pytest.approx([2 / 6, 1 / 6, 3 / 6])  # type: ignore[union-attr]


def test_over_drnas_its_penalty_stays() -> None:
    base = Drnas(choices(3, 3), configured(Drnas, kl_weight=0.5), seed=0)
    strategy = made(choices(3, 3))
    strategy.inherit(base)
    penalty = strategy.penalty()
    assert isinstance(penalty, torch.Tensor) and penalty == base.penalty() and penalty > 0


def test_what_the_other_strategy_learnt_answers_to_a_smaller_budget() -> None:
    """Few blocks change, to what it has as the most probable; by the decisions alone the cheapest
    arch would be as good as any.
    """
    space = load_space("macro:width=0.25,resolution=8")
    searchable = Searchable(CostModel(space))
    base = LearnedStrategy(searchable.choices, configured(LearnedStrategy), seed=0)
    with torch.no_grad():
        for alpha in base.parameters:
            alpha.copy_(torch.tensor([0.0, 1.0, 2.0]))
    strategy = made(searchable.choices)
    strategy.inherit(base)
    strategy.decided = [2] * len(space.blocks)  # of three candidates the dearest
    whole = strategy.derive(searchable, {})
    assert isinstance(whole, Arch)
    limit = 0.99 * searchable.costs.of(whole)["flops"]  # one block has to change
    found = strategy.derive(searchable, {"flops": limit})
    assert isinstance(found, Arch)
    assert sorted(space.encode(found).tolist()) == [1] + [2] * (len(space.blocks) - 1)
