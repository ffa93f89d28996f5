"""ROME: its draws and expected costs against enumeration, its sums and means of samples."""

import math
from copy import deepcopy
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor
from toys import ImageBatches, Steps, Toy, cells, choices, configured, searched, snapshot

from mobilenas.base.errors import BadInput
from mobilenas.base.randomness import Stream
from mobilenas.cost import CostModel
from mobilenas.cost.edge_model import EdgeCellCosts
from mobilenas.nn.views import Views
from mobilenas.space import Arch, Choice, EdgeCellSpace, Space, load_space
from mobilenas.strategies.choices import Choices
from mobilenas.strategies.methods import load_search_config
from mobilenas.strategies.rome import Rome
from mobilenas.strategies.search_step import SearchStep
from mobilenas.strategies.subsets import Parts, Subsets

P = torch.tensor([0.5, 0.25, 0.15, 0.1], dtype=torch.float64)
NUMBERS = torch.tensor([0.2, 0.3, 0.4, 0.1], dtype=torch.float64)


def rome(space: Space | EdgeCellSpace, spread: float = 1.0, **settings: Any) -> Rome:
    """With random parameters, so that candidates differ."""
    strategy = Rome(searched(space).choices, configured(Rome, **settings), seed=0)
    rng = np.random.default_rng(1)
    with torch.no_grad():
        for parameter in strategy.parameters:
            parameter.copy_(torch.from_numpy(rng.normal(0, spread, len(parameter))))
    return strategy


def steps_in(strategy: Rome, space: Space | EdgeCellSpace) -> Steps:
    generator = torch.Generator().manual_seed(0)
    supernet = strategy.supernet(searched(space), strategy.config, generator)
    return Steps(supernet, strategy.config, ImageBatches, space=space)


def genes(views: Views) -> list[int]:
    """The first candidate of each view."""
    return [view if isinstance(view, int) else next(iter(view)) for view in views]


@pytest.mark.parametrize(
    "subsets",
    [
        *(Subsets(n, (2,), apart=False) for n in (2, 3, 4, 5)),
        *(Subsets(4, numbers, apart=False) for numbers in ((3,), (1, 2, 3, 4))),
        *(Subsets(4, numbers, apart=True) for numbers in ((2,), (1, 2, 3, 4))),
    ],
    ids=str,
)
def test_subsets_are_drawn_by_their_law(subsets: Subsets) -> None:
    rng = np.random.default_rng(0)
    own = [torch.from_numpy(rng.normal(size=n)) for n in subsets.sizes]
    law = subsets.law(own)
    assert law.sum().item() == pytest.approx(1, abs=1e-12)
    counts = dict.fromkeys(subsets.all, 0)
    for _ in range(10_000):
        drawn, factor, _ = subsets.draw(own, rng, 1.0)
        assert len(set(drawn)) == len(drawn) and len(drawn) in subsets.numbers
        assert factor == 1
        counts[drawn] += 1
    assert len(counts) == 1 or chisquare(list(counts.values()), 10_000 * law).pvalue > 1e-3


@pytest.mark.parametrize("apart, total", [(False, 1), (True, 2)])
def test_of_two_members_the_relaxed_ones_sum_up_to_one_or_two(apart: bool, total: int) -> None:
    """To one, where members have a parameter each; what runs is two edges times 1 in both."""
    rng = np.random.default_rng(0)
    subsets = Subsets(4, (2,), apart=apart)
    own = [torch.from_numpy(rng.normal(size=n)) for n in subsets.sizes]
    drawn, factor, relaxed = subsets.draw(own, rng, 0.7)
    assert (len(drawn), float(factor), float(relaxed.sum())) == (2, 1.0, pytest.approx(total))


def test_the_laws_are_those_of_the_published_formulas() -> None:
    pairs = Subsets(4, (2,), apart=False)
    law = pairs.law([P.log()])
    for (i, k), found in zip(pairs.all, law, strict=True):
        exact_pair = P[i] * P[k] / (1 - P[i]) + P[k] * P[i] / (1 - P[k])
        torch.testing.assert_close(found, exact_pair, rtol=1e-12, atol=0)
    expected = torch.tensor([0.8105, 0.5719, 0.3667, 0.2510]).double()
    torch.testing.assert_close(pairs.inclusion(law), expected, rtol=0, atol=5e-5)
    several = Subsets(4, (1, 2, 3, 4), apart=False)
    law = several.law([P.log(), NUMBERS.log()])
    expected = torch.tensor([0.8266, 0.6619, 0.5156, 0.3959]).double()
    torch.testing.assert_close(several.inclusion(law), expected, rtol=0, atol=5e-5)
    exact = dict.fromkeys(several.all, 0.0)
    for number in range(1, 5):
        for order in permutations(range(4), number):
            left, chance = 1.0, float(NUMBERS[number - 1])
            for i in order:
                chance, left = chance * float(P[i]) / left, left - float(P[i])
            exact[tuple(sorted(order))] += chance
    torch.testing.assert_close(law, torch.tensor(list(exact.values()), dtype=torch.float64))
    sure = Subsets(4, (2,), apart=False).law([torch.tensor([300.0, 0.0, -300.0, -300.0])])
    assert sure.tolist() == [1, 0, 0, 0, 0, 0]


def test_nodes_have_a_parameter_an_edge_or_a_pair() -> None:
    choices_of = searched(cells("darts")).choices
    for version, sizes in ((1, [1, 3, 6, 10]), (2, [2, 3, 4, 5])):
        strategy = Rome(choices_of, configured(Rome, version=version), seed=0)
        assert [len(p) for p in strategy.parameters] == [7] * 28 + 2 * sizes
    of_nb201 = Rome(searched(cells("nb201")).choices, configured(Rome), seed=0)
    assert [len(p) for p in of_nb201.parameters] == [4] * 6  # no topology, and no `none`


@pytest.mark.parametrize("version", [1, 2])
def test_a_sample_is_a_genotype_and_computes_what_it_computes(version: int) -> None:
    space = cells("darts")
    strategy = rome(space, version=version, samples=5)
    steps = steps_in(strategy, space)
    supernet = steps.trainer.module
    x, _ = steps.held(0)
    for n in range(3):
        step = steps(n)
        for views in strategy.samples(step, Stream.ARCH_STEP):
            of_edges = np.array(genes(views[:28]))
            taken = np.zeros(28, dtype=bool)
            for into, node in zip(steps.searchable.choices.into, views[28:], strict=True):
                assert isinstance(node, dict) and len(node) == 2
                taken[into][list(node)] = True
            genotype = space.decode(np.where(taken, of_edges, -1))
            placed = steps.searchable.placed(views)
            assert torch.equal(supernet(x, placed), supernet(x, genotype))
        assert step.spent == 0
        step.loss(views, "held")
        assert step.spent == pytest.approx(len(x) * 16 / 28)  # two of the edges of each node


def test_what_is_not_in_a_sample_has_no_gradient() -> None:
    space = cells("darts")
    strategy = rome(space)
    step = steps_in(strategy, space)(0)
    views = strategy.views(step, Stream.ARCH_STEP)
    found = step.gradient(step.loss(views, "held"), strategy.parameters)
    edges = list(range(28))
    for into, node in zip(step.searchable.choices.into, views[28:], strict=True):
        assert isinstance(node, dict)
        for place, edge in enumerate(edges[into]):
            assert found[edge].any().item() == (place in node)
    assert all(gradient.any() for gradient in found[29:32])  # of nodes that have a choice


def test_the_architecture_moves_along_the_mean_of_the_samples() -> None:
    strategy = Rome(choices(4, 4, 4), configured(Rome, samples=7), seed=0)
    steps = Steps(Toy(3), strategy.config)
    worth = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 4))).float()
    singles: list[Tensor] = []
    means: list[Tensor] = []
    strategy.apply = lambda g: means.append(torch.cat(list(g)))  # type: ignore[method-assign]

    def loss(views: Views, part: str) -> Tensor:
        """Linear in what is drawn, the same in all steps."""
        pairs = zip(worth, views, strict=True)
        return torch.stack([w[k] * view[k] for w, view in pairs for k in view]).sum()  # type: ignore[index,union-attr]

    for n in range(700):
        step = steps(n)
        found = step.gradient

        def recorded(*asked: Any, found: Any = found) -> list[Tensor]:
            singles.append(torch.cat(result := found(*asked)))
            return list(result)

        step.loss, step.gradient = loss, recorded  # type: ignore[method-assign,assignment]
        strategy.learn(step)
    each = torch.stack(singles).reshape(700, 7, -1)
    mean = torch.stack(means)
    torch.testing.assert_close(mean, each.mean(1))
    ratio = mean.var(0).sum() / each.flatten(0, 1).var(0).sum()
    assert ratio.item() == pytest.approx(1 / 7, rel=0.03)


def test_the_weights_move_along_the_sum_of_other_samples() -> None:
    moved, toy = [], Toy(2)
    for count in (1, 7):
        config = configured(Rome, samples=count, clip=None)
        strategy = Rome(choices(1, 1), config, seed=0)  # all samples are alike
        steps = Steps(deepcopy(toy), config)
        before = snapshot(steps.trainer.module)["classifier.weight"]
        strategy.fit(steps(0))
        moved.append(snapshot(steps.trainer.module)["classifier.weight"] - before)
    torch.testing.assert_close(moved[1], 7 * moved[0])
    strategy = Rome(choices(9, 9, 9), configured(Rome), seed=0)
    step = Steps(Toy(3), strategy.config)(0)
    streams = (Stream.ARCH_STEP, Stream.WEIGHT_STEP)
    held, trained = ([genes(v) for v in strategy.samples(step, stream)] for stream in streams)
    assert len(held) == len(trained) == 7 and held != trained


def test_the_gradient_of_all_samples_is_clipped_once() -> None:
    strategy = Rome(choices(1, 1), configured(Rome, samples=7, clip=0.01), seed=0)
    steps = Steps(Toy(2), strategy.config)
    strategy.fit(steps(0))
    found = [p.grad.flatten() for p in steps.trainer.module.parameters() if p.grad is not None]
    assert float(torch.cat(found).norm()) == pytest.approx(0.01, rel=1e-3)


def test_fair_weight_steps_use_each_op_once() -> None:
    space = cells("darts")
    fair, iid = rome(space, fair="ops"), rome(space)
    steps = steps_in(fair, space)
    for n in range(3):
        samples = list(fair.samples(steps(n), Stream.WEIGHT_STEP))
        for edge in range(28):
            allowed = {i for i, op in enumerate(space.spec.ops) if op != "none"}
            assert {genes(views)[edge] for views in samples} == allowed
        pairs = (strategy.samples(steps(n), Stream.ARCH_STEP) for strategy in (fair, iid))
        assert [genes(v) for v in next(pairs)] == [genes(v) for v in next(pairs)]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("name", ["darts", "blocks"])
def test_expected_costs_are_the_mean_of_samples(name: str, version: int) -> None:
    space = cells("darts") if name == "darts" else load_space("digits:width=0.5,resolution=8")
    strategy = rome(space, version=version)
    steps = Steps(torch.nn.Linear(1, 1), strategy.config, space=space)
    expected = steps.cost.of("flops", strategy.occurrences()).item()
    values = []
    for n in range(40):
        for views in strategy.samples(steps(n), Stream.ARCH_STEP):
            if isinstance(space, Space):
                arch = space.decode(np.array(genes(views)))
                values.append(CostModel(space).flops(arch))
            else:
                edges = np.full(28, -1)
                for into, node in zip(steps.searchable.choices.into, views[28:], strict=True):
                    kept = np.arange(28)[into][list(node)]  # type: ignore[arg-type]
                    edges[kept] = np.array(genes(views))[kept]
                values.append(EdgeCellCosts(space).of(space.decode(edges))["flops"])
    error = np.std(values) / math.sqrt(len(values))
    assert abs(expected - np.mean(values)) < 3 * error


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("name", ["darts", "nb201", "blocks"])
def test_where_all_is_sure_the_expected_cost_is_that_of_the_arch(name: str, version: int) -> None:
    space = cells(name) if name != "blocks" else load_space("digits:width=0.5,resolution=8")
    strategy = Rome(searched(space).choices, configured(Rome, version=version), seed=0)
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for parameter in strategy.parameters:
            parameter.copy_(100 * torch.from_numpy(rng.permutation(len(parameter))))
    steps = Steps(torch.nn.Linear(1, 1), strategy.config, space=space)
    arch = strategy.derive(steps.searchable, {})
    exact = steps.searchable.costs.of(arch)["flops"]  # type: ignore[arg-type]
    expected = steps.cost.of("flops", strategy.occurrences()).item()
    assert expected == pytest.approx(exact, rel=1e-9)
    (sample, *_) = strategy.samples(steps(0), Stream.ARCH_STEP)
    if name != "darts":
        assert arch == space.decode(np.array(genes(sample)))


def test_the_strongest_edges_are_kept_whatever_their_ops() -> None:
    space = cells("darts")
    strategy = rome(space, spread=0.1)
    with torch.no_grad():
        for subsets, (beta,) in strategy.nodes:
            beta.copy_(torch.arange(float(subsets.size)))
        for edge in (12, 13):  # the last two of the last normal node: no op of them is sure
            strategy.parameters[edge].copy_(0.01 * torch.arange(7.0))
    genotype = strategy.derive(Steps(Toy(1), strategy.config, space=space).searchable, {})
    for cell in genotype.cells:  # type: ignore[union-attr]
        for end, node in enumerate(cell, start=2):
            assert sorted(start for _, start in node) == [end - 2, end - 1]
    last = genotype.cells[0][-1]  # type: ignore[union-attr]
    best = [op for op in space.spec.ops if op != "none"][6]
    assert {op for op, _ in last} == {best}


def test_what_candidates_are_made_of() -> None:
    names = ("id", "e3k3", "e3k5", "e3k35", "e6k3", "e6k5", "e6k35")
    parts = Parts.of(Choice("block", names))
    assert (parts.ops, parts.paths, parts.numbers) == (("id", "e3", "e6"), 2, (1, 2))
    assert [parts.index[pair] for pair in parts.pairs] == list(range(7))
    assert parts.pairs[3] == (1, (0, 1)) and parts.pairs[0] == (0, ())
    exactly = Parts.of(Choice("block", ("e3k35", "e3k37", "e3k57")))
    assert (exactly.ops, exactly.paths, exactly.numbers) == (("e3",), 3, (2,))
    strategy = Rome(Choices((Choice("block", ("e3k35", "e3k37", "e3k57")),)), configured(Rome), 0)
    assert [len(parameter) for parameter in strategy.parameters] == [1, 3]
    for whole in (names[:-1], ("id", "e3k3", "e6k5"), ("e3k3.5", "e3k35.35"), ("a", "b")):
        parts = Parts.of(Choice("block", whole))
        assert (parts.ops, parts.paths) == (whole, 0)
    assert Parts.of(Choice("edge", ("none", "skip_connect"))).pairs == ((None, ()), (0, ()))


def test_fair_samples_are_as_many_as_ops() -> None:
    searchable = searched(cells("nb201"))
    with pytest.raises(BadInput, match=r"samples 7 must be the number of ops.*edge 0-1 has 4"):
        Rome.check(searchable, configured(Rome, fair="ops"))
    Rome.check(searchable, configured(Rome, fair="ops", samples=4))
    Rome.check(searchable, configured(Rome))


@pytest.mark.parametrize("setting", ["samples=0", "version=3", "fair=edges", "tau_end=20"])
def test_settings_that_it_cannot_have(setting: str) -> None:
    with pytest.raises(BadInput, match=setting.split("=")[0]):
        load_search_config("rome", "cpu", [setting])


def test_steps_have_the_order_of_the_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(SearchStep, "train", lambda self, samples: order.append("weights"))
    strategy = Rome(choices(3), configured(Rome, samples=2), seed=0)
    strategy.apply = lambda gradients: order.append("architecture")  # type: ignore[method-assign]
    strategy.step(Steps(Toy(1), strategy.config)(0))
    assert order == ["architecture", "weights"]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("spread", [1e-3, 1.0])
def test_the_arch_has_the_most_probable_parts(version: int, spread: float) -> None:
    """Not the most probable candidates: of the identity and of all four paths there is one each."""
    space = load_space("s1:resolution=8,width=0.25,candidates.skip=true")
    strategy = rome(space, spread, version=version)
    arch = strategy.derive(searched(space), {})
    assert isinstance(arch, Arch)
    assert {frozenset(part.ops) for part in strategy.parts} > {frozenset({"id", "e3", "e6"})}
    for place, (block, parts) in enumerate(zip(arch.blocks, strategy.parts, strict=True)):
        op, subset = parts.pairs[strategy.choices.ops[place].candidates.index(str(block))]
        assert op == strategy.parameters[place].argmax()
        subsets, own = strategy.paths[place]
        if version == 1:
            expected = subsets.all[own[0].argmax()]
        else:
            count = parts.numbers[own[1].argmax()]
            law = subsets.law(own)
            of_count = {s: p for s, p in zip(subsets.all, law, strict=True) if len(s) == count}
            expected = max(of_count, key=of_count.__getitem__)
        assert subset == (() if parts.ops[op] == "id" else expected)
    costs = CostModel(space)
    limit = 0.9 * costs.flops(arch)
    within = strategy.derive(searched(space), {"flops": limit})
    assert isinstance(within, Arch) and costs.flops(within) <= limit
