"""Expected costs: exact values and gradients, and how they enter a loss."""

import math
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT
from tables import made_up_table
from toys import cells, configured, searched

from mobilenas.base.errors import BadInput
from mobilenas.cost import CostModel
from mobilenas.cost.latency import read_table
from mobilenas.cost.titles import latency_cost
from mobilenas.space import Space, load_space
from mobilenas.strategies.darts_pt import DartsPt
from mobilenas.strategies.expected_cost import ExpectedCost
from mobilenas.strategies.learned import LearnedStrategy, inclusion
from mobilenas.strategies.pc_darts import PcDarts

LATENCY = "latency_ms@made-up"


@pytest.fixture(scope="module")
def space() -> Space:
    return load_space("macro")


@pytest.fixture(scope="module")
def costs(space: Space) -> CostModel:
    return CostModel(space, [made_up_table(space, wobble=0.5)])


def logits(space: Space, seed: int = 0) -> list[torch.Tensor]:
    rng = np.random.default_rng(seed)
    return [
        torch.tensor(rng.normal(size=len(b.candidates)), requires_grad=True) for b in space.blocks
    ]


@pytest.mark.parametrize("cost", ["flops", "params", LATENCY])
def test_certain_archs_cost_what_they_cost(costs: CostModel, space: Space, cost: str) -> None:
    expected = ExpectedCost(costs, {})
    for genes in space.sample_genes(20, np.random.default_rng(0)):
        one_hot = [
            torch.eye(len(b.candidates))[g] for b, g in zip(space.blocks, genes, strict=True)
        ]
        exact = costs.batch(cost, genes[None])[0].item()
        assert expected.of(cost, one_hot).item() == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize(
    "file", sorted((ROOT / "latency_tables").glob("*.json")), ids=attrgetter("stem")
)
def test_certain_archs_cost_what_they_cost_by_each_shipped_table(file: Path) -> None:
    table = read_table(file)
    space = load_space(table.space)
    costs = CostModel(space, [table])
    expected = ExpectedCost(costs, {})
    for genes in space.sample_genes(5, np.random.default_rng(0)):
        one_hot = [
            torch.eye(len(b.candidates))[g] for b, g in zip(space.blocks, genes, strict=True)
        ]
        exact = costs.of(space.decode(genes))
        assert exact.keys() - {"memory"} == {"flops", "params", latency_cost(table.name)}
        for cost in exact.keys() - {"memory"}:  # a peak, which is no sum
            assert expected.of(cost, one_hot).item() == pytest.approx(exact[cost], rel=1e-12)


@pytest.mark.parametrize("cost", ["flops", LATENCY])
def test_the_mean_of_drawn_archs_and_its_gradient(
    costs: CostModel, space: Space, cost: str
) -> None:
    alphas = logits(space)
    probabilities = [a.softmax(0) for a in alphas]
    expected = ExpectedCost(costs, {}).of(cost, probabilities)
    rng = np.random.default_rng(1)
    genes = np.stack(
        [rng.choice(len(p), 20_000, p=p.detach().numpy()) for p in probabilities], axis=1
    )
    values = costs.batch(cost, genes)
    error = values.std() / math.sqrt(len(values))
    assert abs(expected.item() - values.mean()) < 4 * error
    gradients = torch.autograd.grad(expected, alphas)
    _, blocks, _ = costs.parts(cost)
    for p, block, gradient in zip(probabilities, blocks, gradients, strict=True):
        c = torch.from_numpy(block).double()
        torch.testing.assert_close(gradient, p * (c - (p * c).sum()), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", ["add", "power"])
def test_the_gradient_of_a_loss_with_costs(costs: CostModel, space: Space, form: str) -> None:
    limits = {
        "flops": costs.range("flops").median * 0.7,
        LATENCY: 0.9 * costs.range(LATENCY).median,
    }
    cost = ExpectedCost(costs, limits, form, weight=0.5)
    alphas = logits(space)

    def loss() -> torch.Tensor:
        return cost.loss(torch.tensor(1.7).double(), [a.softmax(0) for a in alphas])

    gradient = torch.autograd.grad(loss(), alphas)[2]
    for place in range(len(gradient)):
        sides = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                alphas[2][place] += step
                sides.append(loss().item())
                alphas[2][place] -= step
        assert gradient[place].item() == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=1e-5)
    assert gradient.abs().max() > 0


def test_a_cost_that_has_no_weight_leaves_the_loss_as_it_is(costs: CostModel, space: Space) -> None:
    limits = {"flops": costs.range("flops").minimum}
    for form in ("add", "power"):
        cost = ExpectedCost(costs, limits, form, weight=0)
        assert cost.loss(torch.tensor(1.5), [a.softmax(0) for a in logits(space)]).item() == 1.5


def test_logarithms_of_small_costs(costs: CostModel, space: Space) -> None:
    limits = {LATENCY: 1.0}
    with pytest.raises(BadInput, match=r"limit of .* is 1; it must be above 1, or cost_form=add"):
        ExpectedCost(costs, limits, "power")
    ExpectedCost(costs, limits, "add")
    cost = ExpectedCost(costs, {LATENCY: 1.5}, "power", weight=1)
    cost.of = lambda *_: torch.tensor(0.5).double()  # type: ignore[method-assign]
    factor = cost.loss(torch.tensor(1.0), [a.softmax(0) for a in logits(space)])
    assert 0 <= factor.item() < 0.01


def test_within_the_limits_nothing_is_added(costs: CostModel, space: Space) -> None:
    probabilities = [a.softmax(0) for a in logits(space)]
    loss = torch.tensor(1.5)
    limits = {"flops": costs.range("flops").maximum, "memory": 1.0}  # a peak has no part here
    assert ExpectedCost(costs, limits, weight=9).loss(loss, probabilities).item() == 1.5
    assert ExpectedCost(costs, {}, "power", weight=9).loss(loss, probabilities).item() == 1.5
    twice = {"flops": ExpectedCost(costs, {}).of("flops", probabilities).item() / 2}
    added = ExpectedCost(costs, twice, weight=0.3).loss(loss, probabilities)
    assert added.item() == pytest.approx(1.8)


@pytest.mark.parametrize("name", ["nb201", "darts"])
@pytest.mark.parametrize("kind", [PcDarts, DartsPt])
def test_certain_cells_cost_what_they_cost(name: str, kind: type[LearnedStrategy]) -> None:
    space, rng = cells(name), np.random.default_rng(0)
    searchable = searched(space)
    expected = ExpectedCost(searchable.costs, {})
    strategy = kind(searchable.choices, configured(kind), seed=0)
    counts = []
    for _ in range(5):
        genes = space.encode(space.sample(rng))
        certain = [
            torch.eye(size)[max(gene, 0)]
            for gene, size in zip(genes, searchable.choices.sizes, strict=True)
        ]
        taken = [torch.from_numpy(genes[into] >= 0).float() for into in searchable.choices.into]
        strategy.probabilities = lambda found=certain: found  # type: ignore[method-assign]
        strategy.inputs = lambda found=taken: found  # type: ignore[method-assign]
        arch = strategy.derive(searchable, {})
        assert arch == space.decode(genes)
        for cost, exact in searchable.costs.of(arch).items():  # type: ignore[arg-type]
            found = expected.of(cost, strategy.occurrences()).item()
            assert found == pytest.approx(exact, rel=1e-6)
        counts.append(sum(float(p.sum()) for p in strategy.occurrences()))
    assert counts == [16 if name == "darts" else 6] * 5


def test_edges_that_are_alike_are_taken_alike() -> None:
    """The cost of the cells that are drawn, none of which has the op `none`."""
    space = cells("darts")
    searchable = searched(space)
    strategy = LearnedStrategy(searchable.choices, configured(LearnedStrategy), seed=0)
    p = torch.tensor([float(op != "none") for op in space.spec.ops])
    with torch.no_grad():
        for alpha in strategy.parameters:
            alpha.copy_(p.log().clamp_min(-1e4))
    expected = ExpectedCost(searchable.costs, {}).of("flops", strategy.occurrences()).item()
    rng = np.random.default_rng(0)
    genes = np.stack([space.encode(space.sample(rng)) for _ in range(1000)])
    values = searchable.costs.batch("flops", genes)
    assert abs(expected - values.mean()) < 4 * values.std() / math.sqrt(len(values))


@pytest.mark.parametrize(
    ("worth", "expected"),
    [
        ([0.2, 0.2, 0.2, 0.2], [0.5, 0.5, 0.5, 0.5]),
        ([0.4, 0.4, 0.2], [0.8, 0.8, 0.4]),
        ([0.7, 0.2, 0.1], [1, 2 / 3, 1 / 3]),
        ([0.5, 0.5, 0], [1, 1, 0]),
        ([1.0, 0, 0], [1, 0, 0]),
        ([0.3, 0.1], [1, 1]),
    ],
)
def test_two_edges_are_taken_in_proportion(worth: list[float], expected: list[float]) -> None:
    assert inclusion(torch.tensor(worth), 2).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("beta", [[0.0, 0.1, 0.2], [3.0, 0.1, 0.2], [500.0, 0.0, 0.0]])
def test_what_edges_are_worth_has_a_gradient(beta: list[float]) -> None:
    parameters = torch.tensor(beta, requires_grad=True)
    inclusion(parameters.softmax(0), 2)[1].backward()
    assert parameters.grad is not None and parameters.grad.isfinite().all()
    assert (parameters.grad[1] > 0) == (beta[0] < 100)
