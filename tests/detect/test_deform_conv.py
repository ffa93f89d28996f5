"""Deformable convolutions served to mmcv, called through its own wrappers, against plain loops."""

from dataclasses import dataclass
from itertools import product

import pytest
import torch
from torch import Tensor

pytest.importorskip("mmdet", reason="needs pip install '.[detect]'")

import mobilenas.detect

assert mobilenas.detect.MobileNASBackbone
from mmcv.ops import DeformConv2dPack, deform_conv2d, modulated_deform_conv2d  # noqa: E402


@dataclass(frozen=True)
class Case:
    """Geometry of a convolution; pairs are height, width."""

    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    deform_groups: int = 1


CASES = [
    Case(),
    Case(kernel=(3, 2), stride=(2, 1), padding=(0, 1), dilation=(1, 2)),
    Case(groups=2, deform_groups=2),
    Case(kernel=(1, 1), padding=(0, 0), deform_groups=4),
]
CHANNELS, OUT, HEIGHT, WIDTH = 4, 4, 4, 3


def sampled(plane: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """A plane (h, w) between its pixels, by bilinear interpolation; all around it is 0."""
    total = plane.new_zeros(())
    for row, column in product((0, 1), (0, 1)):
        top, left = int(y.floor()) + row, int(x.floor()) + column
        if 0 <= top < plane.shape[0] and 0 <= left < plane.shape[1]:
            total = total + plane[top, left] * (1 - (y - top).abs()) * (1 - (x - left).abs())
    return total


def plain(
    image: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, case: Case
) -> Tensor:
    """The sum that defines it (Dai et al. 2017), with the factors of Zhu et al. 2019."""
    (kh, kw), (dy, dx) = case.kernel, case.dilation
    taps, count = kh * kw, image.shape[0]
    rows, columns = offset.shape[2:]
    inputs, outputs = CHANNELS // case.groups, OUT // case.groups
    output = []
    for n, o, i, j in product(range(count), range(OUT), range(rows), range(columns)):
        total = bias[o]
        for c, p, q in product(range(inputs), range(kh), range(kw)):
            channel = (o // outputs) * inputs + c
            tap = (channel // (CHANNELS // case.deform_groups)) * taps + p * kw + q
            y = i * case.stride[0] - case.padding[0] + p * dy + offset[n, 2 * tap, i, j]
            x = j * case.stride[1] - case.padding[1] + q * dx + offset[n, 2 * tap + 1, i, j]
            value = sampled(image[n, channel], y, x) * mask[n, tap, i, j]
            total = total + weight[o, c, p, q] * value
        output.append(total)
    return torch.stack(output).view(count, OUT, rows, columns)


def tensors(case: Case) -> dict[str, Tensor]:
    """Float64 inputs with gradients; some offsets reach far out of the image."""
    generator = torch.Generator().manual_seed(0)
    taps = case.deform_groups * case.kernel[0] * case.kernel[1]
    rows, columns = (
        (side + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
        for side, pad, dilation, kernel, stride in zip(
            (HEIGHT, WIDTH), case.padding, case.dilation, case.kernel, case.stride, strict=True
        )
    )
    shapes = {
        "image": (2, CHANNELS, HEIGHT, WIDTH),
        "offset": (2, 2 * taps, rows, columns),
        "mask": (2, taps, rows, columns),
        "weight": (OUT, CHANNELS // case.groups, *case.kernel),
        "bias": (OUT,),
    }
    drawn = {
        name: torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in shapes.items()
    }
    drawn["offset"] *= 2
    return {name: value.requires_grad_() for name, value in drawn.items()}


def assert_same(found: Tensor, wanted: Tensor, inputs: list[Tensor]) -> None:
    """Equal values, and equal gradients for one gradient of the output."""
    assert torch.allclose(found, wanted)
    generator = torch.Generator().manual_seed(1)
    grad = torch.randn(wanted.shape, generator=generator, dtype=torch.float64)
    for ours, right in zip(
        torch.autograd.grad(found, inputs, grad),
        torch.autograd.grad(wanted, inputs, grad),
        strict=True,
    ):
        assert torch.allclose(ours, right)


@pytest.mark.parametrize("case", CASES)
def test_deform_conv_is_its_definition(case: Case) -> None:
    image, offset, mask, weight, bias = tensors(case).values()
    rest = (case.stride, case.padding, case.dilation, case.groups, case.deform_groups)
    found = deform_conv2d(image, offset, weight, *rest)
    wanted = plain(image, offset, torch.ones_like(mask), weight, torch.zeros_like(bias), case)
    assert_same(found, wanted, [image, offset, weight])


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("case", CASES[:3])
def test_modulated_deform_conv_is_its_definition(case: Case, with_bias: bool) -> None:
    image, offset, mask, weight, bias = tensors(case).values()
    rest = (case.stride, case.padding, case.dilation, case.groups, case.deform_groups)
    found = modulated_deform_conv2d(image, offset, mask, weight, bias if with_bias else None, *rest)
    used = bias if with_bias else torch.zeros_like(bias)
    inputs = [image, offset, mask, weight, *([bias] if with_bias else [])]
    assert_same(found, plain(image, offset, mask, weight, used, case), inputs)


def test_a_layer_that_shifts_nothing_is_a_convolution() -> None:
    torch.manual_seed(0)
    layer, image = DeformConv2dPack(4, 6, 3, padding=1), torch.randn(2, 4, 7, 5)
    wanted = torch.nn.functional.conv2d(image, layer.weight, padding=1)
    assert torch.allclose(layer(image), wanted, atol=1e-6)
