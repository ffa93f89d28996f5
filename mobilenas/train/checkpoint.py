"""Checkpoints: tensors and plain values, written atomically, read with weights_only."""

import io
import sys
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mobilenas.base.errors import BadInput
from mobilenas.base.files import write_atomic


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a state of tensors and plain values; equal states give equal bytes.

    Raises OSError where there is no space; the old file is as it was then.
    """
    # In memory first: torch goes on after an error of the file, and ends in one of its own.
    content = io.BytesIO()
    torch.save(_interned(state), content)
    write_atomic(path, lambda file: file.write(content.getbuffer()))


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
            raise BadInput(f"{path} is not the checkpoint of such a run: it lacks {key!r}")
    return state


def fingerprint(module: nn.Module) -> int:
    """A checksum of all weights and batch norm statistics."""
    crc = 0
    for tensor in module.state_dict().values():
        crc = zlib.crc32(tensor.detach().cpu().contiguous().numpy().tobytes(), crc)
    return crc


def _interned(value: Any) -> Any:
    """The same plain data with equal keys as one object, as they are not after a resume.

    pickle writes a string that it has seen before as a reference, so the bytes would tell.
    """
    if type(value) is dict:
        return {
            sys.intern(key) if isinstance(key, str) else key: _interned(item)
            for key, item in value.items()
        }
    return [_interned(item) for item in value] if type(value) is list else value
