"""Edges that are mixed together: the same sums as one op after another."""

from typing import Any

import pytest
import torch
from torch import Tensor

from mobilenas.nn.edge_cells import EdgeCellSupernet
from mobilenas.nn.views import View
from mobilenas.space import EdgeCellSpace, load_listed_space

OPS = "none, skip_connect, nor_conv_1x1, nor_conv_3x3, avg_pool_3x3"
CASES = {
    "all ops": (OPS, 1),
    "partial channels": (OPS, 4),
    "one convolution": ("none, nor_conv_3x3", 1),
    "other ops": ("max_pool_3x3, nor_conv_1x1, skip_connect", 1),
}


def both(ops: str, parts: int = 1) -> tuple[EdgeCellSpace, list[EdgeCellSupernet]]:
    """A space and its supernet, fused and op by op."""
    space = load_listed_space(f"nb201:channels=8,cells=2,resolution=8,ops=[{ops}]")
    assert isinstance(space, EdgeCellSpace)
    supernets = [
        EdgeCellSupernet(
            space, parts=parts, fused=fused, generator=torch.Generator().manual_seed(0)
        )
        for fused in (True, False)
    ]
    return space, [supernet.double() for supernet in supernets]


def weights_of(space: EdgeCellSpace) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.rand(len(c.candidates), generator=generator, dtype=torch.double).requires_grad_()
        for c in (*space.choices, *space.inputs)
    ]


def images() -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(4, 3, 8, 8, generator=generator, dtype=torch.double)


def difference(one: Tensor, other: Tensor) -> float:
    return float(((one - other).abs().max() / other.abs().max().clamp_min(1)).detach())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("tracked", [True, False])
def test_a_mixture_of_all_edges_is_the_plain_loop(case: str, training: bool, tracked: bool) -> None:
    """Logits, gradients of the weights of views and of parameters, and running statistics."""
    space, supernets = both(*CASES[case])
    found: list[tuple[Any, ...]] = []
    for supernet in supernets:
        for part in supernet.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.running_mean += 0.1  # type: ignore[operator]
                part.track_running_stats = tracked
        weights = weights_of(space)
        views = [dict(enumerate(w)) for w in weights]
        logits = supernet.train(training)(images(), [views[slot] for slot in space.slots])
        inputs = [*weights, *supernet.parameters()]
        gradients = torch.autograd.grad(logits.square().sum(), inputs, allow_unused=True)
        found.append((logits, gradients, supernet.state_dict()))
    (logits, gradients, state), (plain_logits, plain_gradients, plain_state) = found
    assert difference(logits, plain_logits) < 1e-12
    for gradient, plain in zip(gradients, plain_gradients, strict=True):
        assert gradient is plain is None or difference(gradient, plain) < 1e-12
    assert all(difference(tensor, plain_state[name]) < 1e-12 for name, tensor in state.items())


def test_what_is_not_named_is_not_run() -> None:
    space, (fused, _) = both(OPS)
    views = [dict(list(enumerate(w))[1:3]) for w in weights_of(space)[:6]]
    ones: list[View] = [0, *(dict.fromkeys(range(n), torch.ones(())) for n in (2, 3))]
    choices: list[View] = [*views, *ones]
    buffers = {name: buffer.clone() for name, buffer in fused.named_buffers()}
    fused(images(), [choices[slot] for slot in space.slots]).square().sum().backward()
    for name, parameter in fused.named_parameters():
        op = name.split(".")[4] if ".edges." in name else "2"
        assert (parameter.grad is not None) == (op == "2"), name
    for name, buffer in fused.named_buffers():
        if ".edges." in name:
            assert torch.equal(buffer, buffers[name]) == (name.split(".")[4] != "2"), name


def test_weights_may_be_of_less_precision_than_the_supernet() -> None:
    space, supernets = both(OPS)
    logits = []
    for supernet in supernets:
        views = [dict(enumerate(w.float())) for w in weights_of(space)]
        logits.append(supernet(images(), [views[slot] for slot in space.slots]))
    assert difference(*logits) < 1e-12


@pytest.mark.parametrize(
    "case",
    ["an average over batches", "a gate", "an index", "an edge left out", "other ops", "one op"],
)
def test_others_are_run_op_by_op(case: str) -> None:
    """To the bit, as nothing of them is mixed together."""
    space, supernets = both(OPS)
    logits = []
    for supernet in supernets:
        weights = weights_of(space)
        views: list[Any] = [dict(enumerate(w)) for w in weights]
        if case == "an average over batches":
            for part in supernet.modules():
                if isinstance(part, torch.nn.BatchNorm2d):
                    part.momentum = None
        elif case == "a gate":
            views[0][3] = torch.zeros(())
        elif case == "an index":
            views[2] = 3
        elif case == "an edge left out":
            del views[-1][1]
        elif case == "one op":
            views[:6] = [{3: view[3]} for view in views[:6]]
        else:
            del views[1][2]
        logits.append(supernet(images(), [views[slot] for slot in space.slots]))
    assert torch.equal(*logits)


@pytest.mark.parametrize("graph", [True, False], ids=["with a graph", "weights alone"])
def test_channels_last_gradients_are_those_of_the_plain_loop(graph: bool) -> None:
    """A batch norm weight that is no copy of its own once made torch read beyond it here."""
    space, supernets = both(OPS)
    x = images().float().contiguous(memory_format=torch.channels_last)
    found = []
    for supernet in supernets:
        supernet.float().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        weights = [w.detach().float().requires_grad_(graph) for w in weights_of(space)]
        views = [dict(enumerate(w)) for w in weights]
        loss = supernet(x, [views[slot] for slot in space.slots]).square().sum()
        junk = [torch.full((n,), 1e30) for n in (8, 16, 32, 64) for _ in range(50)]
        del junk  # what lies beyond a tensor is not 0
        found.append(torch.autograd.grad(loss, list(supernet.parameters()), allow_unused=True))
    for gradient, plain in zip(*found, strict=True):
        assert gradient is plain is None or difference(gradient, plain) < 1e-4
