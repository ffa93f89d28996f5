"""Checkpoints of mmengine, and our saved networks, without running code from the file."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging.history_buffer import HistoryBuffer
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from mobilenas.base.errors import BadInput, one_line
from mobilenas.base.files import user_path
from mobilenas.nn.saved import check_tensors, load_network


def _method(owner: Any, name: str) -> object:
    # The history of the losses names its own statistics, as attributes of its class.
    if owner is not HistoryBuffer or name not in HistoryBuffer._statistics_methods:
        raise pickle.UnpicklingError(f"the attribute {name!r} of {owner!r} is not allowed")
    return HistoryBuffer._statistics_methods[name]


# What a checkpoint of mmengine holds beside tensors and plain data: the history of the losses.
_GLOBALS: list[Any] = [
    (_method, "builtins.getattr"),
    HistoryBuffer,
    np.ndarray,
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Int64DType,
    np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    np._core.multiarray.scalar,  # type: ignore[attr-defined]
]


def is_saved_network(path: str) -> bool:
    """Whether a path names a network of `save_network`: its folder or its file."""
    return Path(path).is_dir() or path.endswith(".safetensors")


def load_from_mobilenas(filename: str, map_location: Any = None) -> dict[str, Any]:
    """What mmengine calls for a checkpoint at a local path.

    A saved network gives its weights as `state_dict`, and its space and arch as `meta`. Anything
    else is read by torch with weights_only, the classes of mmengine's log history allowed.

    Raises BadInput naming the file when it is missing, damaged, or would run code.
    """
    path = user_path(filename)
    if is_saved_network(str(path)):
        network, _ = load_network(path)
        state = {name: tensor.to(map_location) for name, tensor in network.state_dict().items()}
        meta = {"space": network.space.to_dict(), "arch": str(network.arch)}
        return {"state_dict": state, "meta": meta}
    if not path.is_file():
        raise BadInput(f"no checkpoint at {path}")
    try:
        with torch.serialization.safe_globals(_GLOBALS):
            checkpoint: dict[str, Any] = torch.load(path, map_location, weights_only=True)
    except Exception as error:  # damaged bytes make torch and zipfile raise errors of several kinds
        raise BadInput(f"{path} is not a checkpoint that can be read: {one_line(error)}") from None
    state = checkpoint.get("state_dict", {}) if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or not all(isinstance(x, Tensor) for x in state.values()):
        raise BadInput(f"{path} is not a checkpoint: its state_dict must map names to tensors")
    return checkpoint


def check_weights(path: Path, detector: nn.Module) -> None:
    """Raise BadInput unless a checkpoint has all weights of a detector and no others: mmengine logs
    what differs, and goes on with random ones.
    """
    found = load_from_mobilenas(str(path), "cpu").get("state_dict", {})
    try:
        check_tensors(detector.state_dict(), found)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None


def register() -> None:
    """Make mmengine read local checkpoints by `load_from_mobilenas`."""
    HistoryBuffer()  # the class lists its statistics when the first one is made
    CheckpointLoader.register_scheme(prefixes="", loader=load_from_mobilenas, force=True)
