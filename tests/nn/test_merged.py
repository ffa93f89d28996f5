"""Merged convolutions: a sum of kernels is a sum of convolutions, up to what follows."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mobilenas.base.errors import BadInput
from mobilenas.nn import EdgeCellSupernet, Supernet, fold_batch_norm, merged
from mobilenas.nn.blocks import build
from mobilenas.nn.choice_block import Branch
from mobilenas.nn.kernels.depthwise import depthwise_conv2d
from mobilenas.nn.merged import MergedBlock, MergedEdge
from mobilenas.space import Candidate, EdgeCellSpace, Genotype, load_listed_space, load_space
from mobilenas.space.edge_cells import Op

DARTS: list[Op] = ["none", "max_pool_3x3", "avg_pool_3x3", "skip_connect"]
DARTS += ["sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"]
NB201: list[Op] = ["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"]
OPS = pytest.mark.parametrize("ops", [DARTS, NB201], ids=["darts", "nb201"])
STRIDES = pytest.mark.parametrize("stride", [1, 2])
LINEAR = "s1:width=0.25,path_activation=after_sum"


def edge_of(ops: list[Op], stride: int = 1, two_level: bool = False) -> MergedEdge:
    torch.manual_seed(0)
    return MergedEdge(ops, 8, stride, ops is DARTS, two_level).double()


def weights_of(edge: MergedEdge) -> dict[int, Tensor]:
    drawn = torch.rand(len(edge.ops), generator=torch.Generator().manual_seed(1)).double()
    return dict(enumerate((drawn / drawn.sum()).requires_grad_().unbind()))


def features(channels: int = 8, size: int = 10) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(4, channels, size, size, generator=generator, dtype=torch.float64)


@OPS
@STRIDES
def test_the_merged_convolution_is_the_sum_of_all(ops: list[Op], stride: int) -> None:
    edge, x = edge_of(ops, stride), features()
    weights = {i: w for i, w in weights_of(edge).items() if i in edge.taps}
    convs = [edge.plain(index)[1] for index in weights]  # type: ignore[index]
    assert {conv.dilation[0] for conv in convs} == ({1, 2} if ops is DARTS else {1})  # type: ignore[union-attr,index]
    apart = sum(w * conv(x) for w, conv in zip(weights.values(), convs, strict=True))
    found = edge.convolved(x, weights)
    assert (found - apart).abs().max() < 1e-12
    towards = torch.randn_like(found)
    pair = [
        torch.autograd.grad((y * towards).sum(), list(weights.values()))  # type: ignore[union-attr]
        for y in (found, apart)
    ]
    for one, other in zip(*pair, strict=True):
        assert abs(float(one - other)) < 1e-10


@OPS
@STRIDES
@pytest.mark.parametrize("training", [True, False])
def test_an_op_cut_out_computes_what_the_edge_does(
    ops: list[Op], stride: int, training: bool
) -> None:
    edge, x = edge_of(ops, stride).train(training), features()
    for index in range(len(ops)):
        expected = copy.deepcopy(edge.plain(index))(x)
        for view in (index, {index: torch.ones(()).double()}):
            assert (copy.deepcopy(edge)(x, view) - expected).abs().max() < 1e-12


def test_taps_that_no_op_has_get_no_gradient() -> None:
    edge = edge_of(DARTS)
    edge(features(), weights_of(edge)).square().sum().backward()
    taps = edge.conv.weight.grad.abs().sum((0, 1))  # type: ignore[union-attr]
    assert taps.numel() == 81 and int((taps == 0).sum()) == 40


@pytest.mark.parametrize("two_level", [False, True])
def test_behind_the_batch_norm_the_mass_of_all_convolutions_counts_in_two_levels_only(
    two_level: bool,
) -> None:
    """Known of the method: without, convolutions do not compete with shortcuts and pools."""
    edge, x = edge_of(DARTS, two_level=two_level), features()
    edge.bn.eps = 1e-15
    weights = weights_of(edge)
    convolutions = {i: w for i, w in weights.items() if i in edge.taps}
    y, more = (edge(x, {i: f * w for i, w in convolutions.items()}) for f in (1, 10))
    assert ((more - (10 * y if two_level else y)).abs().max()) < 1e-9


def test_a_network_of_nas_bench_201_computes_what_the_merged_supernet_does() -> None:
    space = load_listed_space("nb201:channels=4,cells=1,resolution=8")
    assert isinstance(space, EdgeCellSpace)
    supernet = EdgeCellSupernet(space, merged="flat", generator=torch.Generator().manual_seed(0))
    supernet.double().train()
    x = torch.randn(4, 3, 8, 8).double()
    text = "|nor_conv_3x3~0|+|nor_conv_1x1~0|nor_conv_3x3~1|+"
    text += "|skip_connect~0|avg_pool_3x3~1|nor_conv_1x1~2|"
    genotype = space.parse(text)
    assert isinstance(genotype, Genotype)
    network = supernet.network(genotype)
    torch.testing.assert_close(network(x), supernet(x, genotype), rtol=1e-10, atol=1e-12)


def test_separable_convolutions_run_once_while_they_are_searched() -> None:
    space = load_listed_space("darts:channels=4,cells=3,resolution=8")
    assert isinstance(space, EdgeCellSpace)
    supernet = EdgeCellSupernet(space, merged="flat")
    ops = [torch.eye(8)[space.spec.ops.index("sep_conv_3x3")]] * 28
    with pytest.raises(BadInput, match="merged: a sep_conv runs once"):
        supernet.network(space.strongest(ops))
    ops = [torch.eye(8)[space.spec.ops.index("dil_conv_5x5")]] * 28
    network = supernet.network(space.strongest(ops))
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(network(x), supernet(x, space.strongest(ops)), rtol=1e-4, atol=1e-5)


# --- blocks ---------------------------------------------------------------------------------------


def block_of(number: int, reference: str = LINEAR) -> MergedBlock:
    torch.manual_seed(0)
    block = MergedBlock(load_space(reference).layers[number]).double()
    for part in block.modules():
        if isinstance(part, nn.BatchNorm2d) and part.affine:
            nn.init.normal_(part.weight, 1, 0.2)
            nn.init.normal_(part.bias, 0, 0.2)
    return block


def view_of(block: MergedBlock, **weights: float) -> dict[int, Tensor]:
    named = {str(candidate): index for index, candidate in enumerate(block.candidates)}
    return {named[n]: torch.tensor(w, dtype=torch.float64) for n, w in weights.items()}


@STRIDES
def test_the_merged_kernel_of_a_block_is_the_sum_of_its_paths(stride: int) -> None:
    layers = load_space(LINEAR).layers
    number = next(i for i, layer in enumerate(layers) if layer.stride == stride)
    block = block_of(number)
    x = features(layers[number].in_channels)
    shares = {"e3k3": 0.1, "e3k5": 0.2, "e3k7": 0.3, "e3k9": 0.15}
    branch = block.branches["e3"]
    assert isinstance(branch, Branch)
    sums = [
        w * branch.groups[0][name[2:]](branch.expand(x))  # type: ignore[index]
        for name, w in shares.items()
    ]
    total = torch.stack(sums).sum(0)
    branch = copy.deepcopy(branch)
    y = branch.bn_for(1)(branch.project(branch.after_sum_for(1)(total)))
    expected = sum(shares.values()) * (x + y if branch.residual else y)
    torch.testing.assert_close(block(x, view_of(block, **shares)), expected, rtol=1e-10, atol=1e-11)


@STRIDES
def test_the_merged_depthwise_convolution_is_the_sum_of_those_of_paths(
    stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the batch norm, and so are its derivatives by the weights of the paths."""
    layers = load_space(LINEAR).layers
    number = next(i for i, layer in enumerate(layers) if layer.stride == stride)
    block = block_of(number)
    x = features(layers[number].in_channels)
    view = view_of(block, e3k3=0.1, e3k5=0.2, e3k7=0.3, e3k9=0.15)
    shares = [w.requires_grad_() for w in view.values()]
    found: list[Tensor] = []

    def kept(x: Tensor, weight: Tensor, stride: int) -> Tensor:
        found.append(depthwise_conv2d(x, weight, stride))
        return found[-1]

    monkeypatch.setattr(merged, "depthwise_conv2d", kept)
    block._merged(x, view)
    (together,) = found
    branch = block.branches["e3"]
    assert isinstance(branch, Branch)
    wide = copy.deepcopy(branch).expand(x)
    convs = (branch.groups[0][f"k{k}"] for k in (3, 5, 7, 9))  # type: ignore[index]
    apart = sum(w * conv(wide) for w, conv in zip(shares, convs, strict=True))
    assert (together - apart).abs().max() < 1e-12
    towards = torch.randn(together.shape, dtype=together.dtype)
    slopes = [torch.autograd.grad((y * towards).sum(), shares) for y in (together, apart)]  # type: ignore[union-attr]
    torch.testing.assert_close(*slopes, rtol=1e-12, atol=1e-10)


def test_candidates_of_several_expansions_and_the_identity_are_added_up() -> None:
    reference = "digits:width=0.5,candidates=[id,e3k3,e3k5,e6k3,e6k5]"
    block = block_of(1, reference)
    x = features(load_space(reference).layers[1].in_channels)
    weights = {"id": 0.2, "e3k3": 0.1, "e3k5": 0.3, "e6k5": 0.4}
    expected = sum(
        sum(part.values()) * copy.deepcopy(block)(x, view_of(block, **part)) / sum(part.values())
        for part in ({"id": 0.2}, {"e3k3": 0.1, "e3k5": 0.3}, {"e6k5": 0.4})
    )
    torch.testing.assert_close(block(x, view_of(block, **weights)), expected)


def test_a_linear_block_merged_is_the_folded_block() -> None:
    """With weights of 1 for some paths, the kernels those of the block with its norms folded."""
    layer = load_space(LINEAR).layers[1]
    candidate = Candidate.parse("e3k359")
    plain = build(layer, candidate).double().eval()
    for part in plain.modules():
        if isinstance(part, nn.BatchNorm2d):
            for value, mean in ((part.weight, 1.0), (part.bias, 0.0), (part.running_mean, 0.0)):
                nn.init.normal_(value, mean, 0.3)  # type: ignore[arg-type]
            nn.init.uniform_(part.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    folded = fold_batch_norm(plain)
    block = MergedBlock(layer).double().eval()
    branch = block.branches["e3"]
    assert isinstance(branch, Branch)
    branch.expand, branch.project = plain.expand, plain.project  # type: ignore[assignment]
    branch.bns[0] = plain.bns[0]  # type: ignore[index]
    after = copy.deepcopy(plain.after_sum[0])  # type: ignore[index]
    for name, path in plain.groups[0].items():  # type: ignore[index,operator,union-attr]
        scale = path.bn.weight / (path.bn.running_var + path.bn.eps).sqrt()
        branch.groups[0][name].weight = nn.Parameter(  # type: ignore[index]
            path.conv.weight * scale[:, None, None, None]
        )
        after.bn.running_mean -= (path.bn.bias - path.bn.running_mean * scale).detach()
    branch.after_sum[0] = after
    x = features(layer.in_channels)
    expected = folded(x)
    ones = view_of(block, e3k3=1.0, e3k5=1.0, e3k9=1.0)
    torch.testing.assert_close(block._merged(x, ones), expected, rtol=1e-10, atol=1e-10)
    index = block.candidates.index(candidate)
    torch.testing.assert_close(block(x, index), expected, rtol=1e-10, atol=1e-10)


def test_a_merged_supernet_runs_one_depthwise_convolution_an_expansion(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    space = load_space(LINEAR)
    supernet = Supernet(space, merged=True, generator=torch.Generator().manual_seed(0))
    views = [
        {i: torch.tensor(0.1) for i, c in enumerate(block.candidates) if c.num_paths == 1}
        for block in space.blocks
    ]
    calls: list[Tensor] = []
    monkeypatch.setattr(merged, "depthwise_conv2d", counting(calls))
    supernet(torch.randn(2, 3, 32, 32), views).square().sum().backward()
    assert len(calls) == 2 * len(space.blocks)
    kernels = [p for name, p in supernet.named_parameters() if ".groups." in name]
    assert len(kernels) == 4 * len(calls) and all(p.grad is not None for p in kernels)


def counting(calls: list[Tensor]) -> Callable[..., Tensor]:
    def convolved(x: Tensor, weight: Tensor, stride: int) -> Tensor:
        calls.append(weight)
        return depthwise_conv2d(x, weight, stride)

    return convolved
