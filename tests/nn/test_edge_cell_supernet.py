"""The supernet of cells whose edges have ops: what its views name is run, and that as written."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobilenas.base.errors import BadInput
from mobilenas.nn.edge_cells import (
    EdgeCellNetwork,
    EdgeCellSupernet,
    PartialEdge,
    genotype_views,
    place_views,
)
from mobilenas.nn.edge_ops import HalvedSize, build_op
from mobilenas.nn.views import View
from mobilenas.space import EdgeCellSpace, Genotype, load_listed_space

SPACES = [
    "nb201:channels=4,cells=1,resolution=8",
    "darts:channels=4,cells=3,resolution=8",
    "darts:skeleton=darts_imagenet,channels=4,cells=4,nodes=2,resolution=32",
]
EACH = pytest.mark.parametrize("reference", SPACES, ids=["nb201", "darts", "imagenet"])


def load(reference: str) -> EdgeCellSpace:
    space = load_listed_space(reference)
    assert isinstance(space, EdgeCellSpace)
    return space


def new(space: EdgeCellSpace, seed: int = 0, **options: Any) -> EdgeCellSupernet:
    generator = torch.Generator().manual_seed(seed)
    return EdgeCellSupernet(space, generator=generator, **options)


def images(space: EdgeCellSpace, n: int = 3) -> Tensor:
    size = (n, space.spec.in_channels, space.resolution, space.resolution)
    return torch.randn(size, generator=torch.Generator().manual_seed(0))


def genotypes(space: EdgeCellSpace, n: int = 3) -> list[Genotype]:
    rng = np.random.default_rng(0)
    return [space.sample(rng) for _ in range(n)]


def dense(
    space: EdgeCellSpace, dtype: torch.dtype = torch.float32
) -> tuple[list[View], list[Tensor]]:
    """Views of all candidates of all choices and inputs, and their weights, which differ."""
    generator = torch.Generator().manual_seed(1)
    weights = [
        torch.rand(len(c.candidates), generator=generator).to(dtype).requires_grad_()
        for c in (*space.choices, *space.inputs)
    ]
    views = [dict(enumerate(w)) for w in weights]
    count = len(space.choices)
    return place_views(space, views[:count], views[count:]), weights


@contextmanager
def runs(supernet: EdgeCellSupernet) -> Iterator[list[str]]:
    """The names of the ops that run, as `cells.0.edges.2.4`."""
    found: list[str] = []
    hooks = []
    for number, cell in enumerate(supernet.cells):
        for place, edge in enumerate(cell.edges):
            for index, op in enumerate(edge):
                name = f"cells.{number}.edges.{place}.{index}"
                hooks.append(op.register_forward_hook(lambda *_, name=name: found.append(name)))
    yield found
    for hook in hooks:
        hook.remove()


def names_of(space: EdgeCellSpace, genotype: Genotype) -> set[str]:
    """The ops that a genotype has, by name."""
    genes = space.encode(genotype).reshape(-1, len(space.edges))
    return {
        f"cells.{number}.edges.{edge}.{genes[shape.kind, edge]}"
        for number, shape in enumerate(space.shapes)
        for edge in range(len(space.edges))
        if genes[shape.kind, edge] >= 0
    }


def is_op(name: str) -> bool:
    return ".edges." in name


@EACH
def test_only_what_a_genotype_names_is_run_and_gets_gradients(reference: str) -> None:
    space = load(reference)
    supernet = new(space).train()
    for genotype in genotypes(space):
        supernet.zero_grad(set_to_none=True)
        buffers = {name: buffer.clone() for name, buffer in supernet.named_buffers()}
        with runs(supernet) as found:
            supernet(images(space), genotype).square().sum().backward()
        used = names_of(space, genotype)
        assert sorted(found) == sorted(used)
        for name, parameter in supernet.named_parameters():
            mine = ".".join(name.split(".")[:5]) in used
            if is_op(name):
                # In nb201 an op may have no part in the loss, as only edges with none follow it.
                reached = parameter.grad is not None
                assert reached == mine or (not reached and reference.startswith("nb201")), name
        for name, buffer in supernet.named_buffers():
            if is_op(name) and ".".join(name.split(".")[:5]) not in used:
                assert torch.equal(buffer, buffers[name]), name


@EACH
def test_a_mixture_runs_what_it_names(reference: str) -> None:
    space = load(reference)
    supernet = new(space, fused=False).train()
    views, weights = dense(space)
    with runs(supernet) as found:
        supernet(images(space), views).square().sum().backward()
    ops = len(space.spec.ops) * len(space.edges) * len(space.shapes)
    assert len(found) == len(set(found)) == ops
    assert all(weight.grad is not None for weight in weights)
    assert all(p.grad is not None for p in supernet.parameters())
    some = [{k: w for k, w in view.items() if k != 1} or view for view in views]
    with runs(supernet) as found:
        supernet(images(space), some)
    assert not any(name.endswith(".1") for name in found)
    without_a_second_edge = "edges.1." if reference.startswith("darts") else "edges.2."
    assert not any(without_a_second_edge in name for name in found)


@EACH
@pytest.mark.parametrize("training", [True, False])
def test_a_network_computes_what_the_supernet_does(reference: str, training: bool) -> None:
    """To the bit, and so are running statistics: by its genotype, and by weights that are 1."""
    space = load(reference)
    supernet = new(space).train(training)
    for part in supernet.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.3)  # type: ignore[union-attr]
    for genotype in genotypes(space):
        own, other = copy.deepcopy(supernet), copy.deepcopy(supernet)
        network = supernet.network(genotype)
        one_hot: list[View] = [
            {view: torch.ones(())} if isinstance(view, int) else view
            for view in genotype_views(space, genotype)
        ]
        logits = network(images(space))
        assert torch.equal(own(images(space), genotype), logits)
        assert torch.equal(other(images(space), one_hot), logits)
        moved = network.state_dict()
        for run in (own, other):
            for name, tensor in run.network(genotype).state_dict().items():
                assert torch.equal(tensor, moved[name]), name


@EACH
def test_weights_of_1_have_the_gradients_of_the_genotype_to_the_bit(reference: str) -> None:
    """So they have where all edges have one op, of which a mixture would be computed at once."""
    space = load(reference)
    alike = [space.decode(np.where(space.encode(genotypes(space)[0]) < 0, -1, 3))]
    for genotype in genotypes(space) + alike:
        views = genotype_views(space, genotype)
        one_hot: list[View] = [{v: torch.ones(())} if isinstance(v, int) else v for v in views]
        assert any(isinstance(view, int) for view in views)
        found = []
        for what in (genotype, one_hot):
            supernet, x = new(space).train(), images(space).requires_grad_()
            F.cross_entropy(supernet(x, what), torch.arange(3)).backward()
            gradients = {name: p.grad for name, p in supernet.named_parameters()}
            found.append(gradients | {"images": x.grad})
        plain, weighted = found
        assert any(g is None for g in plain.values())  # of what is not in the genotype
        for name, gradient in plain.items():
            assert (gradient is None) == (weighted[name] is None), name
            assert gradient is None or torch.equal(gradient, weighted[name]), name


@EACH
def test_a_network_has_the_gradients_of_the_supernet(reference: str) -> None:
    space = load(reference)
    supernet = new(space).double()
    for genotype in genotypes(space):
        network = supernet.network(genotype)
        found = []
        for module, y in (
            (supernet, supernet(images(space).double(), genotype)),
            (network, network(images(space).double())),
        ):
            parameters = [module.classifier.weight, next(module.stem.parameters())]
            found.append(torch.autograd.grad(y.square().sum(), parameters, allow_unused=True))
        for one, same in zip(*found, strict=True):
            assert one is same is None or torch.allclose(one, same, rtol=1e-10, atol=1e-12)


def test_networks_are_copies() -> None:
    space = load(SPACES[1])
    supernet = new(space)
    before = copy.deepcopy(supernet.state_dict())
    with torch.no_grad():
        for tensor in supernet.network(genotypes(space)[0]).state_dict().values():
            tensor.zero_()
    assert all(torch.equal(value, before[key]) for key, value in supernet.state_dict().items())
    assert supernet.double().network(genotypes(space)[0]).classifier.weight.dtype == torch.double


def test_a_mixture_of_nas_bench_201_is_that_of_a_plain_rewrite() -> None:
    space = load("nb201:channels=4,cells=1,resolution=8")
    supernet = new(space).double().train()
    state, x = supernet.state_dict(), images(space).double()
    views, weights = dense(space, torch.double)

    def norm(x: Tensor, name: str = "") -> Tensor:
        affine = (state.get(f"{name}.{part}") for part in ("weight", "bias"))
        return F.batch_norm(x, None, None, *affine, training=True)

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    y = norm(conv(x, "stem.0.conv"), "stem.0.bn")
    for cell in range(3):
        enter = f"cells.{cell}.enter.0"
        if cell:
            z = norm(conv(F.relu(y), f"{enter}.branch.0.1", 2), f"{enter}.branch.0.2")
            z = norm(conv(F.relu(z), f"{enter}.branch.1.1"), f"{enter}.branch.1.2")
            y = conv(F.avg_pool2d(y, 2), f"{enter}.shortcut.1") + z
        nodes = [y]
        for end in (1, 2, 3):
            total = torch.zeros((), dtype=torch.double)
            for start in range(end):
                place = space.edges.index((start, end))
                edge, of, x = f"cells.{cell}.edges.{place}", weights[place], nodes[start]
                mixed = of[1] * x + of[4] * F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
                mixed = mixed + of[2] * norm(conv(F.relu(x), f"{edge}.2.1"))
                mixed = mixed + of[3] * norm(conv(F.relu(x), f"{edge}.3.1"))
                total = total + weights[5 + end][start] * mixed
            nodes.append(total)
        y = nodes[3]
    y = F.relu(norm(y, "head.0")).mean(dim=(2, 3))
    expected = F.linear(y, state["classifier.weight"], state["classifier.bias"])
    found = supernet(images(space).double(), views)
    assert (found - expected).abs().max() < 1e-12
    for one, other in zip(
        torch.autograd.grad(found.square().sum(), weights),
        torch.autograd.grad(expected.square().sum(), weights),
        strict=True,
    ):
        assert (one - other).abs().max() < 1e-10


def test_batch_norms_of_ops_have_no_weight_while_they_are_searched() -> None:
    for reference, pools in zip(SPACES, (0, 2, 2), strict=True):
        space = load(reference)
        edge = new(space).cells[0].edges[0]  # type: ignore[union-attr, index]
        norms = [part for part in edge.modules() if isinstance(part, nn.BatchNorm2d)]
        convolutions = 2 if reference.startswith("nb201") else 6  # two of each sep_conv
        assert len(norms) == convolutions + pools
        assert not any(norm.affine for norm in norms)
        network = EdgeCellNetwork(space, genotypes(space)[0])
        assert all(n.affine for n in network.modules() if isinstance(n, nn.BatchNorm2d))
    pool = build_op("avg_pool_3x3", 4, 1, affine=True, norm_pools=False)
    assert torch.equal(pool(torch.ones(1, 4, 5, 5)), torch.ones(1, 4, 5, 5))  # padding: no part


def test_a_halved_size_takes_pixels_of_both_parities() -> None:
    module = HalvedSize(1, 2, affine=True).eval()
    for conv in module.halves:
        nn.init.ones_(conv.weight)  # type: ignore[arg-type]
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    expected = torch.stack([x[0, 0, ::2, ::2], x[0, 0, 1::2, 1::2]])
    assert torch.allclose(module(x)[0], expected, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("stride", [1, 2])
def test_ops_leave_their_input_as_it_is(stride: int) -> None:
    ops = (*load("darts").spec.ops, "nor_conv_1x1", "nor_conv_3x3")
    x = torch.randn(2, 4, 6, 6)
    for op in ops:
        for last in (False, True):
            given = x.contiguous(memory_format=torch.channels_last) if last else x.clone()
            y = build_op(op, 4, stride, affine=False, norm_pools=True)(given)
            assert torch.equal(given, x)
            assert y.shape == (2, 4, 6 // stride, 6 // stride)
            assert (op == "none") == (not y.any())


def test_a_gate_of_none_has_a_gradient_of_0_whether_it_is_open_or_not() -> None:
    space = load(SPACES[0])
    supernet, ops = new(space), list(space.spec.ops)
    none, conv = ops.index("none"), ops.index("nor_conv_3x3")
    for gates in (torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])):
        gates.requires_grad_()
        views: list[View] = [conv] * len(space.choices)
        views[3] = {none: gates[0], conv: gates[1]}
        supernet(images(space), place_views(space, views)).square().sum().backward()
        assert gates.grad is not None and gates.grad[0] == 0 and gates.grad[1] != 0


# --- partial channels ---------------------------------------------------------------------------


def test_partial_edges_let_channels_pass_and_shuffle_them() -> None:
    x = torch.arange(16.0).reshape(1, 16, 1, 1)
    edge = PartialEdge([nn.Identity()], parts=4, stride=1)
    assert edge(x, 0).flatten().tolist() == [0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15]
    maps = torch.randn(2, 8, 4, 4)
    halved = PartialEdge([nn.AvgPool2d(2)], parts=4, stride=2)(maps, {0: torch.tensor(3.0)})
    own, others = 3 * F.avg_pool2d(maps[:, :2], 2), F.max_pool2d(maps[:, 2:], 2)
    assert torch.equal(halved, F.channel_shuffle(torch.cat([own, others], 1), 4))


@EACH
def test_partial_supernets(reference: str) -> None:
    space = load(f"{reference},channels=16")
    supernet = new(space, parts=4)
    views, weights = dense(space)
    logits = supernet(images(space), views)
    assert all(g.any() for g in torch.autograd.grad(logits.square().sum(), weights))
    with pytest.raises(BadInput, match="parts 4: a network has ops on all channels"):
        supernet.network(genotypes(space)[0])


@pytest.mark.parametrize(("channels", "parts"), [(12, 8), (4, 4), (6, 4)])
def test_channels_that_cannot_be_parted_are_refused(channels: int, parts: int) -> None:
    space = load(f"nb201:channels={channels},cells=1")
    with pytest.raises(BadInput, match=f"parts {parts}: must divide the {channels} channels"):
        EdgeCellSupernet(space, parts=parts)


def test_initial_weights_follow_the_generator() -> None:
    space = load(SPACES[0])
    first, same, other = (new(space, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert not torch.equal(first["stem.0.conv.weight"], other["stem.0.conv.weight"])
