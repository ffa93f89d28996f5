"""Faster CPU versions of whole blocks, depthwise convolution and ReLU6, for training.

Their gradients are computed by hand and cannot be differentiated again: a backward pass with
`create_graph=True` raises RuntimeError. What needs second derivatives, as a Hessian-vector product
does, runs forward and backward within `plain_kernels()`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

_plain: ContextVar[bool] = ContextVar("plain_kernels", default=False)  # of this thread


@contextmanager
def plain_kernels() -> Iterator[None]:
    """Within it, all are torch's own in this thread, so that second derivatives are right."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def are_plain() -> bool:
    """Whether this is within `plain_kernels()`."""
    return _plain.get()


def may_take(x: Tensor) -> bool:
    """Whether maps x may be those of a training step that kernels can take: what costs nothing to
    ask, before all that is asked of layers.
    """
    return type(x) in (Tensor, nn.Parameter) and torch.is_grad_enabled() and x.is_cpu


@torch.jit.unused
def is_eager_training(*tensors: Tensor) -> bool:
    """Whether these are plain tensors of a training step, the first of which gets a gradient.

    Whatever traces, exports, compiles or transforms a module, or differentiates it twice, must meet
    torch's own operators alone.
    """
    return (
        # Exact types, and first of all: the proxies of fx allow no further question, and the
        # fake tensors of torch.export must not get an autograd function of ours.
        all(type(tensor) in (Tensor, nn.Parameter) for tensor in tensors)
        and torch.is_grad_enabled()
        and tensors[0].requires_grad
        and not torch.jit.is_tracing()  # type: ignore[attr-defined]
        and not torch.compiler.is_compiling()
        and not torch.onnx.is_in_onnx_export()
        and not torch._C._are_functorch_transforms_active()
        and not are_plain()
    )


def refuse_second_derivatives() -> None:
    """Raise RuntimeError in a backward pass that is to be differentiated itself.

    torch's `once_differentiable` raises too late, and not always: the node that would raise leads
    to no parameter, so `torch.autograd.grad(loss, parameters)` passes it by.
    """
    if torch.is_grad_enabled():  # what `create_graph=True` sets
        raise RuntimeError(
            "the fast blocks, depthwise convolutions and ReLU6 have no second derivatives: run "
            "forward and backward within mobilenas.nn.kernels.plain_kernels()"
        )
