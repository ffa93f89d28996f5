"""Weights of smaller candidates as parts of those of the largest one.

A smaller expansion has the first channels of the larger one (slimmable networks, Yu et al. 2019), a
smaller kernel is the centre of the largest (once-for-all networks, Cai et al. 2020, without their
transformation matrices).
"""

from typing import Literal

import torch
from torch import Tensor, nn

from mobilenas.nn.kernels.depthwise import DepthwiseConv2d

# What the candidates of a block share: the weights of expansions, of kernels, or of both.
Sharing = Literal["none", "expansion", "kernel", "both"]


class Shared(nn.Module):
    """A module whose weight, and bias if there is one, are parts of a larger module's parameters.

    They are taken anew at each forward, so gradients go to the larger module. That one is no
    submodule: parameters and state dict have each weight once. The statistics of a batch norm are
    its own.
    """

    _larger: tuple[nn.Module, ...] = ()  # a tuple, as a Module would become a submodule
    _shape: tuple[int, ...]  # of the weight

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Refused: it would never be used. `unshared` gives a module whose weight can be set."""
        assert not self._larger, f"{name} is a part of a larger module's"
        super().register_parameter(name, param)

    @property
    def weight(self) -> Tensor:
        """The first channels of the larger weight and the centre of its kernels."""
        part = self._part("weight", self._shape)
        assert part is not None
        return part

    @property
    def bias(self) -> Tensor | None:
        """The same of its bias."""
        return self._part("bias", self._shape[:1])

    def _part(self, name: str, shape: tuple[int, ...]) -> Tensor | None:
        if not self._larger:  # torch asks for it while the module is made
            raise AttributeError(name)
        whole = getattr(self._larger[0], name)
        if whole is None:
            return None
        places = zip(whole.shape, shape, strict=True)
        # Channels from the first one, rows and columns of a kernel from its border inwards.
        starts = [0 if axis < 2 else (n - m) // 2 for axis, (n, m) in enumerate(places)]
        part: Tensor = whole[tuple(slice(a, a + m) for a, m in zip(starts, shape, strict=True))]
        return part


class SharedConv2d(Shared, nn.Conv2d):  # type: ignore[override]
    """A convolution."""


class SharedDepthwiseConv2d(Shared, DepthwiseConv2d):  # type: ignore[override]
    """A depthwise convolution."""


class SharedBatchNorm2d(Shared, nn.BatchNorm2d):  # type: ignore[misc]
    """A batch norm with the affine part of a larger one and statistics of its own."""

    def reset_parameters(self) -> None:
        """Fresh statistics: the rest is the larger one's to reset."""
        self.reset_running_stats()


_PLAIN = (DepthwiseConv2d, nn.Conv2d, nn.BatchNorm2d)  # a depthwise convolution is also a Conv2d
_SHARED = (SharedDepthwiseConv2d, SharedConv2d, SharedBatchNorm2d)


def shared(module: nn.Module, larger: nn.Module) -> Shared:
    """`module`, a convolution or batch norm, with the parameters of `larger`."""
    made = _like(module, _SHARED)
    assert isinstance(made, Shared) and isinstance(module.weight, Tensor)
    made._shape = tuple(module.weight.shape)
    made._parameters.update(weight=None, bias=None)
    made._larger = larger._larger if isinstance(larger, Shared) else (larger,)
    return made


def plain_state(module: nn.Module) -> dict[str, Tensor]:
    """The state dict of a module as if nothing in it were shared, and all batch norms had a weight
    and a bias.
    """
    state: dict[str, Tensor] = module.state_dict()
    for name, part in module.named_modules():
        prefix = f"{name}." if name else ""
        if isinstance(part, nn.BatchNorm2d) and not part.affine:
            state[f"{prefix}weight"] = torch.ones_like(part.running_mean)  # type: ignore[arg-type]
            state[f"{prefix}bias"] = torch.zeros_like(part.running_mean)  # type: ignore[arg-type]
        if isinstance(part, Shared):
            state[f"{prefix}weight"] = part.weight.detach()
            if part.bias is not None:
                state[f"{prefix}bias"] = part.bias.detach()
    return state


@torch.no_grad()
def unshared(part: Shared) -> nn.Module:
    """A copy of a module with parameters of its own."""
    made = _like(part, _PLAIN).to(part.weight.device, part.weight.dtype)
    made.load_state_dict(plain_state(part))
    return made.train(part.training)


def _like(part: nn.Module, kinds: tuple[type[nn.Module], ...]) -> nn.Module:
    """A fresh module of the sizes of `part`; kinds: what stands for each of _PLAIN."""
    depthwise, conv, norm = kinds
    if isinstance(part, DepthwiseConv2d):
        return depthwise(part.out_channels, part.kernel_size[0], part.stride[0])
    if isinstance(part, nn.Conv2d):
        sizes = (part.in_channels, part.out_channels, part.kernel_size, part.stride, part.padding)
        return conv(*sizes, groups=part.groups, bias=part.bias is not None)
    assert isinstance(part, nn.BatchNorm2d)
    return norm(part.num_features, part.eps, part.momentum)
