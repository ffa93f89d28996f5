"""An accelerator without enough memory."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import TINY, TINY_SPACE, Call

from mobilenas.train.trainer import Trainer


def test_out_of_memory_is_one_line(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee docs")

    monkeypatch.setattr(Trainer, "step", too_large)
    failed = call(
        "supernet-train",
        f"--space={TINY_SPACE}",
        *TINY,
        "--set=passes=1",
        f"--out={tmp_path / 'run'}",
    )
    assert failed.code == 1
    assert "mobilenas: CUDA out of memory. Tried to allocate 2.00 GiB." in failed.err
    assert failed.err.rstrip().endswith("a smaller batch_size needs less, in a run of its own")
