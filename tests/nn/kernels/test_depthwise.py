from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobilenas.nn.kernels.depthwise import DepthwiseConv2d, _column_groups, depthwise_weight_grad

FAST = "_DepthwiseConv2dFunctionBackward"


def _layer(channels: int, kernel_size: int, stride: int = 1) -> DepthwiseConv2d:
    torch.manual_seed(kernel_size)
    return DepthwiseConv2d(channels, kernel_size, stride)


@pytest.fixture
def no_minimum(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fast path for inputs of any size, so that the tests of its values can be small."""
    monkeypatch.setattr("mobilenas.nn.kernels.depthwise._MIN_ELEMENTS", 0)


def _relative(value: Tensor, reference: Tensor) -> float:
    return float((value.double() - reference).abs().max() / reference.abs().max())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (1, 16, 7, 7), (3, 24, 8, 8), (2, 17, 13, 10)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel_size", [3, 5, 7, 9])
def test_output_and_gradients_equal_those_of_a_float64_convolution(
    kernel_size: int,
    stride: int,
    shape: tuple[int, ...],
    layout: torch.memory_format,
    no_minimum: None,
) -> None:
    layer = _layer(shape[1], kernel_size, stride)
    x = torch.randn(shape).contiguous(memory_format=layout).requires_grad_()
    out = layer(x)
    assert (out.grad_fn.name() == FAST) == (kernel_size > 3)
    grad = torch.randn(out.shape)
    out.backward(grad)

    x64 = x.detach().double().requires_grad_()
    w64 = layer.weight.detach().double().requires_grad_()
    out64 = F.conv2d(x64, w64, None, stride, kernel_size // 2, 1, shape[1])
    out64.backward(grad.double())
    assert x64.grad is not None and w64.grad is not None
    assert x.grad is not None and layer.weight.grad is not None
    assert layer.weight.grad.shape == layer.weight.shape
    assert _relative(out.detach(), out64.detach()) < 1e-5
    assert _relative(x.grad, x64.grad) < 1e-5
    assert _relative(layer.weight.grad, w64.grad) < 1e-5


@pytest.mark.parametrize("stride", [1, 2])
def test_several_chunks_add_up(stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(5, 16, 9, 9).contiguous(memory_format=torch.channels_last)
    grad = torch.randn(5, 16, 9 // stride + stride - 1, 9 // stride + stride - 1)
    whole = depthwise_weight_grad(x, grad, 7, stride)
    # two images a chunk, so that the last chunk is a short one
    monkeypatch.setattr("mobilenas.nn.kernels.depthwise._CHUNK_BYTES", 2 * x.nbytes // 5)
    assert _relative(depthwise_weight_grad(x, grad, 7, stride), whole.double()) < 1e-5


def test_weight_gradient_is_the_same_bits_each_time() -> None:
    x = torch.randn(8, 48, 16, 16).contiguous(memory_format=torch.channels_last)
    grad = torch.randn(8, 48, 16, 16).contiguous(memory_format=torch.channels_last)
    first = depthwise_weight_grad(x, grad, 9)
    assert all(torch.equal(first, depthwise_weight_grad(x, grad, 9)) for _ in range(3))


@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7, 9, 11])
def test_column_groups_cover_the_filter_and_are_narrow(kernel_size: int) -> None:
    groups = _column_groups(kernel_size)
    assert [c for first, n in groups for c in range(first, first + n)] == list(range(kernel_size))
    assert max(n for _, n in groups) <= 3


def test_expanded_gradient_of_a_sum(no_minimum: None) -> None:
    layer = _layer(16, 5)
    layer(torch.randn(2, 16, 8, 8)).sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.isfinite().all()


def test_fast_path_is_taken_in_training_only() -> None:
    x = torch.randn(8, 16, 16, 16).contiguous(memory_format=torch.channels_last)
    layer = _layer(16, 7)
    out = layer(x)
    assert out.grad_fn is not None and out.grad_fn.name() == FAST
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert layer(x[:7]).grad_fn.name() != FAST  # too small to gain
    with torch.no_grad():
        assert layer(x).grad_fn is None
    assert _layer(16, 3)(x).grad_fn.name() != FAST
    assert layer.double()(x.double()).grad_fn.name() != FAST
    layer = _layer(16, 7).requires_grad_(False)
    assert layer(x.clone().requires_grad_()).grad_fn.name() != FAST
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = _layer(16, 7)(x)
    assert out.dtype == torch.bfloat16 and out.grad_fn.name() != FAST


def test_state_dict_and_initialisation_are_those_of_conv2d() -> None:
    layer = _layer(16, 5, 2)
    torch.manual_seed(5)
    conv = nn.Conv2d(16, 16, 5, 2, 2, groups=16, bias=False)
    assert torch.equal(layer.weight, conv.weight)
    conv.load_state_dict(layer.state_dict())
    layer.load_state_dict(conv.state_dict())


def test_tracers_see_an_ordinary_convolution(no_minimum: None) -> None:
    layer, x = _layer(16, 7), torch.randn(2, 16, 8, 8)
    expected = layer(x)
    graph = torch.fx.symbolic_trace(nn.Sequential(layer))
    assert any(node.target is F.conv2d for node in graph.graph.nodes)
    traced = torch.jit.trace(layer, x)
    assert "_convolution" in str(traced.inlined_graph)
    exported = torch.export.export(layer, (x,))
    assert any(node.target == torch.ops.aten.conv2d.default for node in exported.graph.nodes)
    for module in (graph, traced, torch.jit.script(layer), exported.module()):
        torch.testing.assert_close(module(x), expected)


def test_even_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="odd"):
        DepthwiseConv2d(8, 4)
