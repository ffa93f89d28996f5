"""PC-DARTS: the weights of edges, and what is derived from them."""

import pytest
import torch
from searched import CELLS
from toys import ImageBatches, Steps, configured, saved_bytes

from mobilenas.base.errors import BadInput
from mobilenas.base.randomness import Stream
from mobilenas.cost.edge_model import costs_of
from mobilenas.nn import EdgeCellSupernet
from mobilenas.nn.edge_cells import MixedEdge, PartialEdge
from mobilenas.nn.edge_ops import build_op
from mobilenas.space import EdgeCellSpace, Genotype, load_listed_space
from mobilenas.strategies.pc_darts import PcDarts
from mobilenas.strategies.searchable import Searchable

DARTS = "darts:channels=4,cells=3,resolution=8"


def made(reference: str, **settings: object) -> tuple[PcDarts, Searchable]:
    searchable = Searchable(costs_of(load_listed_space(reference)))
    return PcDarts(searchable.choices, configured(PcDarts, **settings), seed=0), searchable


@pytest.mark.parametrize("reference", [CELLS, DARTS])
def test_edges_into_a_node_share_one_and_are_learnt(reference: str) -> None:
    strategy, searchable = made(reference)
    space, config = searchable.space, strategy.config
    assert isinstance(space, EdgeCellSpace)
    types = len(space.skeleton.types)
    assert [len(b) for b in strategy.inputs()] == [*space.nodes] * types
    for beta in strategy.inputs():
        assert float(beta.detach().sum()) == pytest.approx(1)
    supernet = strategy.supernet(searchable, config, torch.Generator().manual_seed(0))
    assert isinstance(supernet, EdgeCellSupernet) and supernet.parts == 2
    steps = Steps(supernet, config, ImageBatches, space=space)
    loss = steps(0).loss(strategy.views(steps(0), Stream.ARCH_STEP), "held")
    for alpha, gradient in zip(
        strategy.parameters, steps(0).gradient(loss, strategy.parameters), strict=True
    ):
        assert gradient.any() == (len(alpha) > 1)  # what has no rival has nothing to learn
    before = [beta.detach().clone() for beta in strategy.inputs()]
    strategy.step(steps(0))
    for beta, old in zip(strategy.inputs(), before, strict=True):
        assert (len(beta) == 1) == torch.equal(beta, old)


def test_an_edge_of_darts_keeps_about_a_part_of_the_memory() -> None:
    space = load_listed_space("darts")
    assert isinstance(space, EdgeCellSpace)
    x = torch.randn(8, 16, 32, 32, requires_grad=True)
    view = dict(enumerate(torch.full((8,), 1 / 8, requires_grad=True).unbind()))
    dense, partial = (
        saved_bytes(edge, x, view)
        for edge in (
            MixedEdge(build_op(op, 16, 1, False, True) for op in space.spec.ops),
            PartialEdge([build_op(op, 4, 1, False, True) for op in space.spec.ops], 4, 1),
        )
    )
    assert partial / dense == pytest.approx(0.27, abs=0.02)


def test_work_is_counted_by_ops() -> None:
    strategy, searchable = made(CELLS)
    supernet = strategy.supernet(searchable, strategy.config, torch.Generator().manual_seed(0))
    steps = Steps(supernet, strategy.config, ImageBatches, space=searchable.space)
    step = steps(0)
    step.loss(strategy.views(step, Stream.ARCH_STEP), "held")
    assert step.spent == 32 * 5


def test_an_op_is_worth_its_probability_times_that_of_its_edge() -> None:
    strategy, searchable = made(DARTS)
    space = searchable.space
    assert isinstance(space, EdgeCellSpace)
    ops = list(space.spec.ops)
    with torch.no_grad():
        for alpha in strategy.parameters:
            alpha.zero_()
        for kind in range(2):
            edges = strategy.parameters[14 * kind : 14 * (kind + 1)]
            for edge in edges:
                edge[ops.index("none")] = 3.0  # it has a share, but is no op to derive
                edge[ops.index("sep_conv_3x3")] = 2.0
            edges[13][ops.index("skip_connect")] = 4.0  # from node 4 to node 5
        nodes = strategy.parameters[28:]
        # Of the last node of normal cells input 0 has the strongest edge, input 1 the second, and
        # node 4, whose op is the most probable of all, the weakest.
        nodes[3].copy_(torch.tensor([2.0, 1.0, 0.0, 0.0, -3.0]))
    found = strategy.derive(searchable, {})
    assert isinstance(found, Genotype)
    first = (("sep_conv_3x3", 0), ("sep_conv_3x3", 1))
    assert found.cells[0] == (first,) * 4
    assert found.cells[1][3] == (("sep_conv_3x3", 0), ("skip_connect", 4))  # equal edges


def test_edges_play_no_part_where_all_are_kept() -> None:
    strategy, searchable = made(CELLS)
    before = strategy.derive(searchable, {})
    with torch.no_grad():
        for beta in strategy.parameters[6:]:
            beta.copy_(torch.randn(len(beta)) * 5)
    assert strategy.derive(searchable, {}) == before


@pytest.mark.parametrize("parts", [3, 4])
def test_parts_that_channels_do_not_have_are_refused(parts: int) -> None:
    strategy, searchable = made(CELLS, parts=parts)
    with pytest.raises(BadInput, match=f"parts {parts}: must divide the 4 channels"):
        strategy.supernet(searchable, strategy.config, torch.Generator())


def test_blocks_are_refused() -> None:
    searchable = Searchable(costs_of(load_listed_space("digits")))
    with pytest.raises(BadInput, match=r"space digits: pc-darts .* it takes cells: nb201, darts"):
        PcDarts.check(searchable, PcDarts.Config())
