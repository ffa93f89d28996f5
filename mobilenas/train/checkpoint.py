"""Checkpoints: tensors and plain values, written atomically, read with weights_only."""

from pathlib import Path
from typing import Any

import torch

from mobilenas.errors import BadInput
from mobilenas.files import write_atomic


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a state of tensors and plain values."""
    write_atomic(path, lambda file: torch.save(state, file))


def load_checkpoint(path: Path, *keys: str) -> dict[str, Any]:
    """Read a state on the CPU.

    Raises BadInput naming the file when it is missing or damaged, or lacks one of the keys.
    """
    if not path.is_file():
        raise BadInput(f"no checkpoint at {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make torch raise nearly anything
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise BadInput(f"{path} is not a readable checkpoint: {reason}") from None
    for key in keys:
        if not isinstance(state, dict) or key not in state:
            raise BadInput(f"{path} is not a checkpoint of a supernet: it lacks {key!r}")
    return state
