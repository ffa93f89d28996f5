"""What mmengine's runner calls while it trains: seeds, checkpoints, progress."""

import math
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mobilenas.base.errors import Diverged
from mobilenas.base.progress import ProgressBar
from mobilenas.base.randomness import start_generators
from mobilenas.runs import RunFolder
from mobilenas.train.device import hardware


class SeedHook(Hook):
    """Starts the global generators of every epoch from (seed, epoch), as a resumed run does too.

    Those of a loader's worker processes start from (seed, epoch, rank, worker): what mmengine gives
    them is the same in every epoch, and so would be their augmentation.
    seed: what `borrowed_generators` gives.
    """

    priority = "VERY_HIGH"

    def __init__(self, seed: Callable[..., None], key: int) -> None:
        self._seed = seed
        self._key = key

    def before_train_epoch(self, runner: Runner) -> None:
        key = self._key, 1 + runner.epoch
        self._seed(*key)
        runner.train_dataloader.worker_init_fn = partial(_seed_worker, (*key, runner.rank))


def _seed_worker(key: tuple[int, ...], worker: int) -> None:
    start_generators(*key, 1 + worker)


class CheckpointHook(Hook):
    """Writes checkpoint.pth atomically at the end of every `interval` epochs, and the timing.

    (Of none but the last one, where the interval is not positive.) mmengine's own hook removes the
    old file before it writes the new one, so that a kill can leave none.
    """

    priority = "VERY_LOW"

    def __init__(self, folder: RunFolder, interval: int) -> None:
        self._folder = folder
        self._interval = interval
        self._start = time.monotonic()
        self._path = folder.path / "checkpoint.pth"
        self._before = folder.seconds if self._path.exists() else 0.0

    def after_train_epoch(self, runner: Runner) -> None:
        done = runner.epoch + 1
        due = self._interval > 0 and done % self._interval == 0
        if due or done == runner.max_epochs:
            self._save(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        # The history of the losses, as objects of mmengine; its log files have it too. What is left
        # are tensors and plain data.
        checkpoint["message_hub"] = {"log_scalars": {}, "runtime_info": {}, "resumed_keys": {}}

    def _save(self, runner: Runner) -> None:
        temporary = self._path.with_name(".checkpoint.pth.tmp")
        runner.save_checkpoint(str(temporary.parent), temporary.name)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(self._path)
        seconds = self._before + time.monotonic() - self._start
        self._folder.store_timing(seconds, hardware(next(runner.model.parameters()).device))


class ProgressHook(Hook):
    """Shows training and testing on stderr, and keeps what the last validation measured.

    metrics: None until the end of training was validated. Raises Diverged for a loss that is not
    finite, before anything is saved.
    """

    def __init__(self) -> None:
        self.metrics: dict[str, float] | None = None
        self._bar: ProgressBar | None = None
        self._note = ""

    def before_train(self, runner: Runner) -> None:
        self._bar = ProgressBar("train", runner.max_iters, runner.iter)
        self._images, self._start = 0, time.monotonic()

    def before_test(self, runner: Runner) -> None:
        self._bar = ProgressBar("eval", len(runner.test_dataloader))
        self._images, self._start = 0, time.monotonic()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        loss = float(torch.as_tensor(outputs["loss"]).mean())
        if not math.isfinite(loss):
            raise Diverged(
                f"step {runner.iter}: the loss is {loss}; a lower learning rate may help"
            )
        epoch = (runner.iter + 1) / len(runner.train_dataloader)
        self._advance(data_batch, f"epoch {epoch:.2f}, loss {loss:.3f}{self._note}")

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence[Any] | None = None,
    ) -> None:
        self._advance(data_batch, "")

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        metrics = metrics or {}
        self._note = f", AP {100 * metrics.get('coco/bbox_mAP', 0):.1f} %"
        # Validation follows the epoch, which is counted by then.
        self.metrics = metrics if runner.iter == runner.max_iters else None

    def close(self) -> None:
        """Take the bar off the terminal."""
        if self._bar is not None:
            self._bar.close()

    def _advance(self, batch: Any, note: str) -> None:
        assert self._bar is not None
        self._images += len(batch["inputs"])
        rate = self._images / (time.monotonic() - self._start)
        self._bar.advance(1, f"{note}, {rate:.1f} images/s".removeprefix(", "))
