"""P-DARTS: what each stage keeps, the dropout of shortcuts, and the limit of their number."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from toys import Steps, configured

from mobilenas.base.errors import BadInput
from mobilenas.base.randomness import Stream
from mobilenas.cost import CostModel
from mobilenas.cost.edge_model import EdgeCellCosts
from mobilenas.space import EdgeCellSpace, ListedSpace, Space, load_listed_space
from mobilenas.strategies.expected_cost import ExpectedCost
from mobilenas.strategies.methods import load_search_config
from mobilenas.strategies.pdarts import Pdarts, dropout, kept_count
from mobilenas.strategies.searchable import Searchable
from mobilenas.strategies.stage import Kept, Stage

DARTS = "darts:channels=4,cells=5,resolution=8"
NB201 = "nb201:channels=4,cells=3,resolution=8"
MACRO = "macro:width=0.25,resolution=8"


def searched(name: str) -> Searchable:
    space: ListedSpace = load_listed_space(name)
    return Searchable(CostModel(space) if isinstance(space, Space) else EdgeCellCosts(space))  # type: ignore[arg-type]


def made(searchable: Searchable, seed: int = 0, **settings: Any) -> Pdarts:
    return Pdarts(searchable.choices, configured(Pdarts, **settings), seed)


def through(name: str) -> list[tuple[Searchable, Kept]]:
    """All stages, with what each keeps of random parameters."""
    whole, kept, found = searched(name), {}, []
    for number in range(3):
        stage = Pdarts.stage(whole, configured(Pdarts), number, kept)
        strategy = made(stage)
        rng = np.random.default_rng(number)
        with torch.no_grad():
            for alpha in strategy.parameters:
                alpha.copy_(torch.tensor(rng.normal(size=len(alpha))))
        if number < 2:
            kept = strategy.survivors(stage)
        found.append((stage, kept))
    return found


@pytest.mark.parametrize("name, counts", [(DARTS, [8, 5, 3]), (NB201, [5, 3, 2])])
def test_what_is_left_in_each_stage(name: str, counts: list[int]) -> None:
    stages = through(name)
    for (stage, _), count in zip(stages, counts, strict=True):
        assert set(stage.choices.sizes) == {count}
    for (earlier, kept), (later, _) in pairwise(stages):
        for before, after in zip(earlier.choices.ops, later.choices.ops, strict=True):
            assert after.candidates == tuple(kept[after.name])
            assert set(after.candidates) < set(before.candidates)
    last = stages[-1][0]
    arch = made(last).derive(last, {})
    assert "none" not in str(arch) or name == NB201
    left = {c.name: c.candidates for c in last.choices.ops}
    kinds = ("normal ", "reduce ") if name == DARTS else ("",)
    for kind, cell in zip(kinds, arch.cells, strict=True):  # type: ignore[union-attr]
        for end, node in zip(last.space.nodes, cell, strict=True):  # type: ignore[union-attr]
            assert all(op in left[f"{kind}edge {start}-{end}"] for op, start in node)


def test_none_competes_in_nb201_and_may_win() -> None:
    whole = searched(NB201)
    stage = Pdarts.stage(whole, configured(Pdarts), 0, {})
    strategy = made(stage)
    with torch.no_grad():
        for alpha in strategy.parameters:
            alpha.copy_(torch.tensor([3.0, 0, 0, 0, 1]))
    assert "none" in str(strategy.derive(stage, {}))


@pytest.mark.parametrize(
    "name, depths",
    [
        ("darts:channels=4,cells=17,resolution=8", [5, 11, 17]),
        ("nb201:channels=4,cells=5,resolution=8", [2, 3, 5]),
        (NB201, [1, 2, 3]),
        ("nb201:channels=4,cells=1,resolution=8", [1, 1, 1]),
    ],
)
def test_the_depth_grows(name: str, depths: list[int]) -> None:
    whole = searched(name)
    stages = [Pdarts.stage(whole, configured(Pdarts), number, {}) for number in range(3)]
    assert [stage.space.spec.cells for stage in stages] == depths  # type: ignore[union-attr]


def test_blocks_that_were_not_there_have_the_candidates_of_the_last_one_before() -> None:
    whole = searched(MACRO)  # stages of 2, 3 and 3 blocks
    assert isinstance(whole.space, Space)
    first = Pdarts.stage(whole, configured(Pdarts), 0, {})
    assert len(first.choices.ops) == 6 and len(whole.choices.ops) == 8
    strategy = made(first)
    with torch.no_grad():
        strategy.parameters[3].copy_(torch.tensor([1.0, 0.0, 2.0]))  # second of the second stage
    kept = strategy.survivors(first)
    names = whole.choices.ops[3].candidates
    assert kept["block 4"] == kept["block 5"] == [names[0], names[2]]
    second = Pdarts.stage(whole, configured(Pdarts), 1, kept)
    assert len(second.choices.ops) == 8 and second.choices.sizes[3:5] == [2, 2]
    spread = first.spread(strategy.probabilities())
    assert torch.equal(spread[3], spread[4])
    costs = CostModel(whole.space)
    cost = ExpectedCost(costs, {"flops": 1.0}, spread=first.spread)
    whole_cost = ExpectedCost(costs, {"flops": 1.0})
    found = cost.of("flops", strategy.probabilities())
    assert torch.equal(found, whole_cost.of("flops", spread))


def test_choices_of_other_lengths_each_keep_their_share() -> None:
    whole = searched("proxyless:width=0.25,resolution=32")  # six kernels, in some blocks `id` too
    assert set(whole.choices.sizes) == {6, 7}
    stages = through("proxyless:width=0.25,resolution=32")
    for (stage, _), share in zip(stages, (1, *Pdarts.Config().keep), strict=True):
        of = [kept_count(share, size) for size in whole.choices.sizes]
        first = {c.name: n for c, n in zip(whole.choices.ops, of, strict=True)}
        assert [len(c.candidates) for c in stage.choices.ops] == [
            first[c.name] for c in stage.choices.ops
        ]
    last, kept = stages[-1][0], stages[1][1]
    blocks = zip(last.choices.ops, str(made(last).derive(last, {})).split("_"), strict=True)
    assert all(candidate in kept[choice.name] for choice, candidate in blocks)


@pytest.mark.parametrize("name", [NB201, MACRO])
def test_a_stage_runs_what_was_kept(name: str) -> None:
    """A choice of one runs it with weight 1: what the whole supernet makes of this arch."""
    whole = searched(name)
    names = [choice.candidates[-1] for choice in whole.choices.ops]
    kept = {c.name: [n] for c, n in zip(whole.choices.ops, names, strict=True)}
    stage = Stage(whole, 2, 3, kept)
    strategy = made(stage)
    supernet = Pdarts.supernet(stage, strategy.config, torch.Generator().manual_seed(0)).eval()
    step = Steps(supernet, strategy.config)(0)
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    mixed = supernet(x, stage.placed(strategy.views(step, Stream.ARCH_STEP)))
    genes = [len(choice.candidates) - 1 for choice in whole.choices.ops]
    torch.testing.assert_close(mixed, supernet(x, whole.placed(genes)))


def test_the_dropout_of_the_released_code() -> None:
    rates = [dropout(0.4, epoch / 25, first=0.4) for epoch in range(25)]
    assert rates[:10] == pytest.approx([0.4 * (24 - e) / 25 for e in range(10)])
    assert (rates[0], rates[9]) == pytest.approx((0.384, 0.24))
    assert rates[10:12] == pytest.approx([0.4, 0.3275], abs=1e-4)  # it jumps back
    assert rates[24] == pytest.approx(0.0243, abs=1e-4)


@pytest.mark.parametrize("name", [DARTS, MACRO])
def test_where_the_dropout_is_and_that_it_falls(name: str) -> None:
    whole = searched(name)
    config = configured(Pdarts, weights_first=0.4)
    stages = [Pdarts.stage(whole, config, number, {}) for number in range(3)]
    supernets = [Pdarts.supernet(x, config, torch.Generator().manual_seed(0)) for x in stages]
    found = [
        [n for n, m in net.named_modules() if isinstance(m, nn.Dropout) and "classifier" not in n]
        for net in supernets
    ]
    ours = [[n for n in names if n != "dropout"] for names in found]
    assert not ours[0] and ours[1]  # at 0 there is no module
    steps = Steps(supernets[1], config)
    step = steps(75)  # of 150
    step.searchable = stages[1]
    strategy = made(stages[1], weights_first=0.4)
    strategy._set_dropout(step)
    modules = dict(supernets[1].named_modules())
    assert {modules[n].p for n in ours[1]} == {dropout(0.4, 0.5, 0.4)}  # type: ignore[union-attr]
    if name == DARTS:  # shortcuts of stride 1 only: those of stride 2 are convolutions
        reduce = [i for i, shape in enumerate(stages[1].space.shapes) if shape.kind == 1]  # type: ignore[union-attr]
        assert all(not n.startswith(f"cells.{reduce[0]}.edges.0.") for n in ours[1])


@pytest.mark.parametrize("limit", range(9))
def test_the_limit_of_shortcuts_holds(limit: int) -> None:
    whole = searched(DARTS)
    rng = np.random.default_rng(limit)
    strategy = made(whole, skip_limit=limit)
    assert isinstance(whole.space, EdgeCellSpace)
    skip = whole.space.spec.ops.index("skip_connect")
    with torch.no_grad():
        for alpha in strategy.parameters:
            alpha.copy_(torch.tensor(rng.normal(size=8)))
            alpha[skip] += 2
    arch = strategy.derive(whole, {})
    normal, reduce = (str(list(cell)).count("skip_connect") for cell in arch.cells)  # type: ignore[union-attr]
    assert normal <= limit and reduce > 2  # of the normal cell only


def test_it_derives_again_rather_than_to_replace_an_op() -> None:
    """Without the weakest shortcut its edge is weaker than another one of the node."""
    whole = searched(DARTS)
    strategy = made(whole, skip_limit=0)
    assert isinstance(whole.space, EdgeCellSpace)
    ops = whole.space.spec.ops
    skip, conv = ops.index("skip_connect"), ops.index("sep_conv_3x3")
    with torch.no_grad():
        for alpha in strategy.parameters:
            alpha.zero_()
        first = whole.space.into[1].start  # edges into the second node: from 0, 1 and 2
        strategy.parameters[first][skip] = 3.0
        strategy.parameters[first + 1][conv] = 1.0
        strategy.parameters[first + 2][conv] = 0.5
    arch = strategy.derive(whole, {})
    assert [start for _, start in arch.cells[0][1]] == [1, 2]  # type: ignore[union-attr]


def test_a_budget_that_needs_shortcuts_is_met_all_the_same() -> None:
    whole = searched(MACRO)
    least = float(CostModel(whole.space).range("flops").minimum)  # type: ignore[arg-type]
    arch = made(whole, skip_limit=0).derive(whole, {"flops": least})
    assert arch is not None and "id" in str(arch)


def test_the_gradient_is_clipped() -> None:
    whole = searched(NB201)
    strategy = made(whole)
    given: list[torch.Tensor] = []
    strategy.optimizer.step = lambda: given.extend(p.grad for p in strategy.parameters)  # type: ignore[method-assign,misc,arg-type,assignment]
    strategy.apply([torch.full((5,), 100.0) for _ in range(6)])
    assert float(torch.cat(given).norm()) == pytest.approx(5, rel=1e-4)


def test_a_limit_larger_than_a_cell() -> None:
    with pytest.raises(BadInput, match=r"skip_limit 9: .* 8 edges a cell"):
        Pdarts.check(searched(DARTS), configured(Pdarts, skip_limit=9))
    with pytest.raises(BadInput, match=r"skip_limit 9: .* 8 blocks"):
        Pdarts.check(searched(MACRO), configured(Pdarts, skip_limit=9))
    Pdarts.check(searched(DARTS), configured(Pdarts, skip_limit=8))


def test_stages_that_have_as_many_candidates_as_before() -> None:
    with pytest.raises(BadInput, match=r"keep \[0.99, 0.98\]: of 8 .* have \[8, 8, 8\]"):
        Pdarts.check(searched(DARTS), configured(Pdarts, keep=(0.99, 0.98)))
    Pdarts.check(searched(MACRO), configured(Pdarts))  # of three candidates two stay


@pytest.mark.parametrize(
    "setting, words",
    [
        ("keep=[0.5,0.5]", "must fall"),
        ("keep=[1.5]", "keep"),
        ("skip_dropout=[0.1]", "must be 3 numbers"),
        ("skip_limit=-1", "skip_limit"),
    ],
)
def test_settings_that_it_cannot_have(setting: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        load_search_config("pdarts", "cpu", [setting])
