"""Blocks, and what came of them as one function or by torch's operators."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mobilenas.nn.blocks import InvertedBottleneck, init_weights
from mobilenas.nn.kernels import plain_kernels
from mobilenas.nn.kernels.compiled import library
from mobilenas.space import Block, load_space

FUSED_BLOCKS = [  # marks of their tests
    pytest.mark.skipif(
        library() is None, reason="the installation compiled no kernels for this processor"
    ),
    pytest.mark.usefixtures("no_minimum"),
]
FUSED = "_BottleneckBackward"
# How results may differ beside torch's own errors, by whether activations are clamped, and the
# biases of norms for either. Now and then a value that is almost 0 or 6 is on the other side in
# float32. Biases of 10 leave nothing to clamp; larger ones multiply what rounding leaves of
# gradients whose sum is 0.
BIASES = {True: 0.5, False: 10.0}
LIMITS = {True: 0.03, False: 1e-5}
SOME_KERNELS = [ks for n in range(1, 5) for ks in combinations((3, 5, 7, 9), n)]


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def spec(**changes: Any) -> Block:
    changes = {"in_channels": 8, "out_channels": 8, "stride": 1} | changes
    return replace(load_space("s1").blocks[0], **changes)


def block(
    kernels: tuple[int, ...] = (3, 7), expansion: int = 3, bias: float = 0.5, **changes: Any
) -> InvertedBottleneck:
    """With drawn batch norms, whose biases are near `bias`."""
    made = InvertedBottleneck.new(spec(**changes), expansion, (kernels,))
    generator = torch.Generator().manual_seed(sum(kernels))
    init_weights(made, generator, zero_init_last=False)
    for part in made.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5, generator=generator)
            nn.init.uniform_(part.bias, bias - 0.5, bias + 0.5, generator=generator)
    return made.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def images(*shape: int, seed: int = 0) -> Tensor:
    x = torch.randn(shape or (3, 8, 9, 10), generator=torch.Generator().manual_seed(seed))
    return x.contiguous(memory_format=torch.channels_last)


def nodes(y: Tensor) -> list[str]:
    """The names of all functions that lead to y."""
    found, left = {}, [y.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in found:
            found[node] = node.name()
            left += [other for other, _ in node.next_functions]
    return list(found.values())


def is_fused(module: nn.Module, x: Tensor) -> bool:
    return FUSED in nodes(module(x))


def results(
    module: nn.Module, x: Tensor, dtype: torch.dtype, fused: bool, inputs: bool = True
) -> dict[str, Tensor]:
    """Value, gradients, with `inputs` of x too, and statistics of a copy in a data type."""
    module = copy.deepcopy(module).to(dtype)
    x = x.detach().to(dtype, copy=True).requires_grad_(inputs)
    with nullcontext() if fused else plain_kernels():
        y = module(x)
        assert (FUSED in nodes(y)) == fused
        assert y.is_contiguous(memory_format=torch.channels_last)
        y.backward(images(*y.shape, seed=1).to(dtype))
    grads = {name: p.grad for name, p in module.named_parameters()}
    if x.requires_grad:
        grads["x"] = x.grad
    return {"value": y.detach(), **grads, **dict(module.named_buffers())}  # type: ignore[dict-item]


def errors(
    module: nn.Module, x: Tensor, fused: bool = True, inputs: bool = True
) -> dict[str, float]:
    """The relative error of each result in float32; of what is zero but for rounding the error."""
    found = results(module, x, torch.float32, fused, inputs)
    exact = results(module, x, torch.float64, False, inputs)
    return {
        name: float((found[name].double() - value).norm() / (value.norm() + 1))
        for name, value in exact.items()
        if value.dtype == torch.float64
    }
