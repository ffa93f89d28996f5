"""Second derivatives: refused by the fast kernels, right within `plain_kernels()`."""

import threading
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobilenas.nn.kernels import are_plain, plain_kernels
from mobilenas.nn.kernels.depthwise import DepthwiseConv2d
from mobilenas.nn.kernels.relu6 import ReLU6

CHANNELS, KERNEL = 8, 7
Block = tuple[nn.Module, list[Tensor], list[Tensor]]  # module, weights, a direction


def block(act: Callable[[], nn.Module], depthwise: Callable[[], nn.Module]) -> Block:
    """A small block, always of the same weights, on 8 images of 24 x 24: large enough that the
    depthwise convolution is the fast one.
    """
    module = nn.Sequential(
        nn.Conv2d(3, CHANNELS, 1), act(), depthwise(), act(), nn.Conv2d(CHANNELS, 4, 1)
    )
    generator = torch.Generator().manual_seed(0)
    weights = [part.weight for part in module if hasattr(part, "weight")]
    with torch.no_grad():
        for parameter in module.parameters():
            nn.init.normal_(parameter, 0.2, 0.4, generator=generator)
    return module, weights, [torch.randn(w.shape, generator=generator) for w in weights]


def images() -> Tensor:
    return torch.randn(8, 3, 24, 24, generator=torch.Generator().manual_seed(1))


def fast_depthwise() -> nn.Module:
    return DepthwiseConv2d(CHANNELS, KERNEL)


def plain_depthwise() -> nn.Module:
    return nn.Conv2d(CHANNELS, CHANNELS, KERNEL, padding=KERNEL // 2, groups=CHANNELS, bias=False)


def fast_relu6() -> nn.Module:
    return ReLU6(inplace=True)


def loss_of(module: nn.Module, x: Tensor) -> Tensor:
    return (F.softplus(module(x)).mean((2, 3)) ** 2).sum()


def hessian_vector(built: Block) -> list[Tensor]:
    module, weights, direction = built
    gradient = torch.autograd.grad(loss_of(module, images()), weights, create_graph=True)
    along = sum((g * v).sum() for g, v in zip(gradient, direction, strict=True))
    return list(torch.autograd.grad(along, weights))  # type: ignore[arg-type]


def finite_difference(built: Block, step: float = 1e-6) -> list[Tensor]:
    """The product in float64 from gradients at two points, of torch's own modules."""
    module, weights, direction = built
    module.double()
    gradients = []
    for sign in (1, -1):
        with torch.no_grad():
            for w, v in zip(weights, direction, strict=True):
                w += sign * step * v
        gradients.append(torch.autograd.grad(loss_of(module, images().double()), weights))
        with torch.no_grad():
            for w, v in zip(weights, direction, strict=True):
                w -= sign * step * v
    return [(a - b) / (2 * step) for a, b in zip(*gradients, strict=True)]


def test_within_the_context_they_are_those_of_torch() -> None:
    with plain_kernels():
        found = hessian_vector(block(fast_relu6, fast_depthwise))
    plain = hessian_vector(block(nn.ReLU6, plain_depthwise))
    expected = finite_difference(block(nn.ReLU6, plain_depthwise))
    for ours, theirs, difference in zip(found, plain, expected, strict=True):
        assert torch.equal(ours, theirs)
        assert (ours - difference).norm() < 1e-3 * difference.norm()


@pytest.mark.parametrize(
    ("act", "depthwise"), [(fast_relu6, plain_depthwise), (nn.ReLU6, fast_depthwise)]
)
def test_without_it_each_of_them_is_refused(
    act: Callable[[], nn.Module], depthwise: Callable[[], nn.Module]
) -> None:
    with pytest.raises(RuntimeError, match=r"plain_kernels\(\)"):
        hessian_vector(block(act, depthwise))
    # Nor where the loss is linear, so that the gradient of the output depends on nothing.
    module, weights, _ = block(act, depthwise)
    with pytest.raises(RuntimeError, match=r"plain_kernels\(\)"):
        torch.autograd.grad(module(images()).sum(), weights, create_graph=True)


def test_contexts_nest_end_with_an_error_and_belong_to_a_thread() -> None:
    seen = []
    with pytest.raises(KeyError), plain_kernels():
        with plain_kernels():
            thread = threading.Thread(target=lambda: seen.append(are_plain()))
            thread.start()
            thread.join()
        assert are_plain()
        raise KeyError
    assert seen == [False]
    assert not are_plain()
