"""What a forward keeps for its backward pass: an edge in feature maps, by arithmetic, and what each
strategy runs beside all candidates at once.
"""

from itertools import permutations
from typing import Any

import pytest
import torch
from test_learned import SETTINGS, in_space
from toys import cells, saved_bytes, two_blocks

from mobilenas.base.randomness import Stream
from mobilenas.nn.choice_block import ChoiceBlock
from mobilenas.nn.edge_cells import MixedEdge, PartialEdge
from mobilenas.nn.edge_ops import build_op
from mobilenas.nn.merged import MergedEdge
from mobilenas.nn.views import Views
from mobilenas.space import EdgeCellSpace, Space, load_space
from mobilenas.strategies.methods import METHODS
from mobilenas.strategies.search_step import SearchStep

CHANNELS = 16
NB201 = ["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"]
DARTS = ["none", "max_pool_3x3", "avg_pool_3x3", "skip_connect"]
DARTS += ["sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"]
# Maps that an op keeps: of a convolution its input, which a ReLU put out, and that of the norm.
NB201_MAPS = {
    "none": 0,
    "skip_connect": 0,
    "nor_conv_1x1": 2,
    "nor_conv_3x3": 2,
    "avg_pool_3x3": 1,  # its input
}
DARTS_MAPS = {
    "none": 0,
    "max_pool_3x3": 4,  # its input, where the largest are, in 64 bits, and the norm's input
    "avg_pool_3x3": 2,
    "skip_connect": 0,
    "sep_conv_3x3": 6,  # twice: the inputs of a depthwise, a 1x1 convolution and a norm
    "sep_conv_5x5": 6,
    "dil_conv_3x3": 3,
    "dil_conv_5x5": 3,
}
EDGES = pytest.mark.parametrize(
    "ops, maps", [(NB201, NB201_MAPS), (DARTS, DARTS_MAPS)], ids=["nb201", "darts"]
)


def built(ops: list[str], channels: int = CHANNELS) -> list[torch.nn.Module]:
    return [build_op(op, channels, 1, False, ops is DARTS) for op in ops]


def features() -> torch.Tensor:
    return torch.randn(8, CHANNELS, 8, 8, requires_grad=True)


def weights(count: int) -> dict[int, torch.Tensor]:
    return {index: torch.tensor(1 / count, requires_grad=True) for index in range(count)}


def kept_maps(edge: torch.nn.Module, view: int | dict[int, torch.Tensor]) -> float:
    """In feature maps of the edge's input."""
    x = features()
    return saved_bytes(edge, x, view) / (4 * x.numel())


def maps_of(count: float) -> Any:
    """So many maps, and a little more, such as the statistics of norms."""
    return pytest.approx(count + 0.04, abs=0.05)


@EDGES
def test_an_edge_keeps_what_its_ops_do(ops: list[str], maps: dict[str, int]) -> None:
    edge = MixedEdge(built(ops))
    for index, op in enumerate(ops):
        assert kept_maps(edge, index) == maps_of(maps[op])
        # A weight that learns needs what it is multiplied by.
        assert kept_maps(edge, {index: weights(1)[0]}) == maps_of(maps[op] + 1)
    # All at once: the edge's input, which pools and the shortcut keep, is one map for all of them.
    again = sum("pool" in op or op == "skip_connect" for op in ops) - 1
    assert kept_maps(edge, weights(len(ops))) == maps_of(sum(maps.values()) + len(ops) - again)


def gates(is_open: int, shut: int) -> dict[int, torch.Tensor]:
    """The pair of ProxylessNAS in an architecture step."""
    return {
        is_open: torch.tensor(1.0, requires_grad=True),
        shut: torch.tensor(0.0, requires_grad=True),
    }


@EDGES
def test_of_a_shut_gate_the_output_alone_is_kept(ops: list[str], maps: dict[str, int]) -> None:
    edge = MixedEdge(built(ops))
    for (a, op), (b, other) in permutations(enumerate(ops), 2):
        again = other == "skip_connect" and "pool" in op  # what one puts out the other takes
        assert kept_maps(edge, gates(a, b)) == maps_of(maps[op] + 2 - again)


@EDGES
def test_a_quarter_of_the_channels_keeps_a_quarter(ops: list[str], maps: dict[str, int]) -> None:
    whole = kept_maps(MixedEdge(built(ops)), weights(len(ops)))
    part = kept_maps(PartialEdge(built(ops, CHANNELS // 4), 4, 1), weights(len(ops)))
    assert part == maps_of((whole - 1) / 4 + 1)  # the input itself is there as a whole


@EDGES
def test_merged_convolutions_keep_what_one_does(ops: list[str], maps: dict[str, int]) -> None:
    edge = MergedEdge(ops, CHANNELS, 1, ops is DARTS, two_level=False)
    apart = [op for op in ops if "conv" not in op]
    one = 3 if ops is DARTS else 2
    again = len(apart) - 2  # all but `none` keep the input
    kernel = edge.conv.weight.numel() / features().numel()  # the weighted sum of masks
    expected = one + sum(maps[op] + 1 for op in apart) - again + kernel
    assert kept_maps(edge, weights(len(ops))) == maps_of(expected)


def kept_by_block(expansion: int, paths: int) -> int:
    """Maps that a block of an MBConv keeps: its input, that of the norm and what the ReLU puts out
    behind the expansion and each path, the sum of several, and the input of the last norm.
    """
    return 1 + expansion * (2 + 2 * paths + (paths > 1)) + 1


@pytest.mark.parametrize("name", ["macro:resolution=32", "digits:width=1,resolution=16"])
def test_a_block_keeps_what_its_candidates_do(name: str) -> None:
    kind = next(block for block in load_space(name).blocks if block.keeps_shape)
    block = ChoiceBlock(kind, shadow_bn=True, affine_last=False).train()
    x = torch.randn(8, kind.in_channels, 16, 16, requires_grad=True)

    def maps(view: int | dict[int, torch.Tensor]) -> float:
        return saved_bytes(block, x, view) / (4 * x.numel())

    once = 1  # the input; and what the candidates of an expansion have in common
    for index, candidate in enumerate(kind.candidates):
        count = len(candidate.kernels[0]) if candidate.kernels else 0
        own = 0 if candidate.is_identity else kept_by_block(candidate.expansion, count)
        assert maps(index) == maps_of(own)
        assert maps({index: weights(1)[0]}) == maps_of(own + 1)
        for shut, other in enumerate(kind.candidates):
            if shut != index:  # whose output is kept, the input itself where it passes that on
                again = other.is_identity
                assert maps(gates(index, shut)) == maps_of(own + 2 - again)
        # Beside others: its sum, the input of its norm, and what its weight multiplies.
        once += 0 if candidate.is_identity else candidate.expansion * (count > 1) + 2
    kernels = {(c.expansion, k) for c in kind.candidates for group in c.kernels for k in group}
    once += sum(2 * e for e in {e for e, _ in kernels}) + sum(2 * e for e, _ in kernels)
    assert maps(weights(len(kind.candidates))) == pytest.approx(once + 0.1, abs=0.1)


@pytest.mark.parametrize("space", [cells("nb201"), two_blocks()], ids=["nb201", "blocks"])
def test_proxyless_learns_through_one_open_and_one_shut_gate(
    space: Space | EdgeCellSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy, steps = in_space("proxyless", {}, space)
    kept: dict[str, int] = {}

    def loss(step: SearchStep, views: Views, part: str) -> torch.Tensor:
        assert all(sorted(weight.item() for weight in v.values()) == [0, 1] for v in views)  # type: ignore[union-attr]
        archs = [next(i for i, w in v.items() if w.item()) for v in views]  # type: ignore[union-attr]
        for name, each in {"pair": views, "arch": archs, "all": dense.views(step, "")}.items():  # type: ignore[arg-type]
            placed = step.searchable.placed(each)
            kept[name] = saved_bytes(steps.trainer.module, steps.held(0)[0], placed)
        return original(step, views, part)

    original = SearchStep.loss
    dense, _ = in_space("darts", {}, space)
    monkeypatch.setattr(SearchStep, "loss", loss)
    strategy.learn(steps(0))
    assert kept["arch"] < kept["pair"] < 0.8 * kept["all"]


# Strategies that run one candidate a choice; the smallest network, where stem and head count too.
SINGLE = {"gdas", "proxyless", "parsec", "rome", "ista", "svge"}


@pytest.mark.parametrize(
    "space, most",
    [(cells("nb201"), 0.6), (cells("darts"), 0.2), (two_blocks(), 0.5)],
    ids=["nb201", "darts", "blocks"],
)
def test_no_strategy_keeps_more_than_all_candidates(
    space: Space | EdgeCellSpace, most: float
) -> None:
    kept = {}
    for name in METHODS:
        if isinstance(space, Space) and name in ("pc-darts", "mergenas"):
            continue  # cells, and blocks of linear paths
        strategy, steps = in_space(name, SETTINGS.get(name, {}), space)
        views = steps.searchable.placed(strategy.views(steps(0), Stream.ARCH_STEP))
        kept[name] = saved_bytes(steps.trainer.module, steps.held(0)[0], views)
    ratios = {name: count / kept["darts"] for name, count in kept.items()}
    # Alone it runs an edge's ops by themselves, not those of a node together, as the others do in
    # nb201, where two convolutions become one.
    nb201 = isinstance(space, EdgeCellSpace) and space.name.startswith("nb201")
    merged = ratios.pop("mergenas", 0.0)
    assert merged < (1.3 if nb201 else 0.5)
    assert max(ratios.values()) <= 1.001
    assert max(ratios[name] for name in SINGLE & ratios.keys()) < most
