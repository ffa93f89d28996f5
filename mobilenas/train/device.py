"""Where training computes, and in what precision."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from mobilenas.base.errors import BadInput

# Of weights and of images: one of them alone makes convolutions convert the other.
MEMORY_FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


def pick_device(name: str) -> torch.device:
    """The named device; auto takes an accelerator where there is one."""
    if name != "auto":
        try:
            device = torch.empty(0, device=name).device
        except (RuntimeError, AssertionError) as error:
            raise BadInput(f"device {name}: {str(error).splitlines()[0]}") from None
        if device.type == "meta":
            raise BadInput("device meta: it holds no values; auto takes the one that there is")
        if device.type != "cpu" and device.index is not None:
            torch.accelerator.set_device_index(device.index)  # whose random generator is seeded
        return device
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The autocast type, None for plain float32."""
    if precision == "auto":
        precision = "fp32" if device.type == "cpu" else "bf16"
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


@contextmanager
def without_tf32() -> Iterator[None]:
    """Within the block CUDA devices keep all bits of float32 in convolutions and products, of which
    TF32, the default of convolutions, leaves ten: too few for small differences.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before


def hardware(device: torch.device) -> dict[str, Any]:
    """What a timing was measured on."""
    return {
        "device": str(device),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "torch": torch.__version__,
    }
