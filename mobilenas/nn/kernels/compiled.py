"""The functions of `bottleneck.cpp`, where the installation could compile them.

This is where it is chosen: without them `library` is None, and torch's operators do the work.
"""

import ctypes
import logging
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from mobilenas.nn.kernels.build import TARGETS, library_path

log = logging.getLogger(__name__)

MOST_PATHS = 4  # of a block
_FUNCTIONS = {  # and how many pointers each takes
    "track_backward": 5,
    "expand": 5,
    "depthwise": 6,
    "project": 6,
    "normalise": 4,
    "normalise_backward": 5,
    "project_backward": 11,
    "depthwise_backward": 12,
    "expand_backward": 9,
}


class Sizes(ctypes.Structure):
    """Sizes of a block, as all functions take them."""

    _fields_ = (
        *((name, ctypes.c_long) for name in ("images", "in", "channels", "out", "height")),
        *((name, ctypes.c_long) for name in ("width", "stride", "paths", "parts")),
        *((name, ctypes.c_long) for name in ("window", "step", "margin", "colours")),
        *((name, ctypes.c_long) for name in ("line_height", "line_width")),
        ("kernels", ctypes.c_long * MOST_PATHS),
        ("low", ctypes.c_float),
        ("high", ctypes.c_float),
    )


class Sums(ctypes.Structure):
    """Where the sums of a batch norm are."""

    _fields_ = (
        *((name, ctypes.c_long) for name in ("channels", "parts", "next")),
        ("count", ctypes.c_double),
        ("at", ctypes.c_void_p),
    )


@lru_cache
def library() -> ctypes.CDLL | None:
    """What was compiled for this processor; None, which is logged once, where nothing was."""
    capability = torch.backends.cpu.get_cpu_capability()
    try:
        found = ctypes.CDLL(str(library_path(TARGETS[capability])))
    except (KeyError, OSError):
        log.info(
            "training by torch's operators alone: there are no kernels for this processor (%s); an "
            "installation with a C++ compiler at hand makes them on Linux with AVX2",
            capability,
        )
        return None
    for name, count in _FUNCTIONS.items():
        function = getattr(found, name)
        function.argtypes = [ctypes.c_void_p] * count
        function.restype = None
    found.track.argtypes = [ctypes.c_void_p, *[ctypes.c_double] * 2, *[ctypes.c_void_p] * 5]
    found.track.restype = None
    found.prefer_huge_pages.argtypes = [ctypes.c_void_p, ctypes.c_long]
    found.prefer_huge_pages.restype = None
    return found


def pointers(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    """Where several tensors lie."""
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))
