"""The trainer: what every training has in common, once. What is trained is a `Task`."""

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Protocol

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from mobilenas.base.errors import BadInput, Diverged
from mobilenas.base.files import read_jsonl, write_jsonl
from mobilenas.base.progress import ProgressBar
from mobilenas.base.randomness import Stream, fixed_generators
from mobilenas.base.settings import Number, Record, validated
from mobilenas.data import Batch, TrainingBatches
from mobilenas.runs import RunFolder
from mobilenas.runs.earlier import current_checkpoint
from mobilenas.train.checkpoint import load_checkpoint, save_checkpoint
from mobilenas.train.config import TrainingConfig
from mobilenas.train.device import MEMORY_FORMATS, autocast_dtype, hardware
from mobilenas.train.distributed import SINGLE, Processes
from mobilenas.train.recipe import make_average, make_optimizer, make_schedule

CHECKPOINT, LOG = "checkpoint.pt", "log.jsonl"
_PARTS = ("module", "average", "optimizer", "scaler")  # of a Trainer, in a checkpoint
_LOG_ROWS = 400  # about so many rows a run, however long
_LEAST_SCALE = 2**-14  # of losses in fp16: 30 steps one after another were not finite
_READ_EVERY = 8  # steps whose losses are read at once: reading waits for the device


class Task(Protocol):
    """What is trained, and what is particular about it.

    title: for the progress bar. steps: of the whole training. steps_per_epoch: as many as make a
    pass over the training images, by which a config's durations are counted. images_per_step: what
    the throughput counts. validate_every: steps between validations, None for none.
    """

    @property
    def title(self) -> str: ...
    @property
    def steps(self) -> int: ...
    @property
    def steps_per_epoch(self) -> float: ...
    @property
    def images_per_step(self) -> int: ...
    @property
    def validate_every(self) -> int | None: ...

    def step(self, trainer: "Trainer", n: int) -> None:
        """Step n: one call of `Trainer.step`."""

    def position(self, n: int) -> float:
        """Where the schedule stands after n steps, in steps of `images_per_step`."""

    def row(self, n: int) -> dict[str, Any]:
        """Where training stands after n steps, for the log: {"epoch": 0.5}."""

    def validate(self, trainer: "Trainer", n: int) -> dict[str, Any]:
        """Measure what is kept after n steps; what to add to the row of the log."""

    def note(self) -> str:
        """What the progress bar says of the task itself: the best accuracy."""

    def state(self) -> dict[str, Any]:
        """Plain data of the task that a checkpoint keeps."""

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""


@dataclass
class Progress:
    """Where training stands: with weights and optimizer, and the task's own, all there is."""

    step: Annotated[int, Field(strict=True, ge=0)] = 0
    loss_sum: float = 0.0  # over the losses since the last row of the log
    losses: Annotated[int, Field(strict=True, ge=0)] = 0


class _LogRow(Record, extra="allow"):
    """A line of the log: where training stood, and the figures of then; `arch` is a text."""

    step: Annotated[int, Field(ge=1)]
    __pydantic_extra__: dict[str, Number | str]

    @model_validator(mode="after")
    def _the_rest_are_numbers(self) -> "_LogRow":
        for key, value in (self.model_extra or {}).items():
            if isinstance(value, str) and key != "arch":
                raise ValueError(f"{key} must be a number, not {value!r}")
        return self


class Trainer:
    """Batches, precision and optimizer steps of a module on one device, in one or more processes.

    With several processes all of them have the same weights after every step.
    """

    def __init__(
        self,
        module: nn.Module,
        config: TrainingConfig,
        batches: TrainingBatches,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
        processes: Processes = SINGLE,
    ) -> None:
        self.config = config
        self.seed = seed
        self.device = torch.device(device)
        self.processes = processes
        self.module = module
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # a training has few shapes, and many steps
        module.to(device, memory_format=MEMORY_FORMATS[config.memory_format])  # type: ignore[call-overload]
        self.average = make_average(config, module)
        self.optimizer = make_optimizer(config, module)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "fp16")
        self.progress = Progress()
        self.last_loss = math.nan
        self._batches = batches
        self._upcoming: tuple[int, Iterator[Batch]] = (-1, iter(()))
        self._unread: list[tuple[int, Sequence[str], Tensor]] = []

    @property
    def kept(self) -> nn.Module:
        """The module that is validated and kept: the moving average where there is one."""
        kept = self.module if self.average is None else self.average.module
        assert isinstance(kept, nn.Module)
        return kept

    def train(self, n: int) -> Batch:
        """The training batch of step n, the rows of this process. In order they are prefetched."""
        expected, batches = self._upcoming
        if n != expected:
            batches = self._batches.iterate(n, 1 << 62)
        self._upcoming = (n + 1, batches)
        return next(batches)

    def batch(self, n: int) -> Batch:
        """The same of any step, which is not prefetched."""
        return self._batches(n)

    def forward(self, images: Tensor, *arguments: Any) -> Tensor:
        """Logits of the module, in the precision and memory format of the config."""
        images = images.contiguous(memory_format=MEMORY_FORMATS[self.config.memory_format])
        with self.autocast():
            logits: Tensor = self.module(images, *arguments)
        return logits

    def autocast(self) -> torch.autocast:
        """The precision of the config."""
        dtype = autocast_dtype(self.config.precision, self.device)
        return torch.autocast(self.device.type, dtype, enabled=dtype is not None)

    def step(
        self,
        n: int,
        losses: Iterable[Tensor],
        names: Sequence[str],
        weights: Sequence[float] | None = None,
    ) -> None:
        """Optimizer step n on the sum of the gradients of some losses, each of which is named.

        weights: of each of them in the sum, 1 if None.

        The losses are taken one by one, so one graph is in memory at a time. Weights that none of
        them uses have grad None and do not move. The norm of the gradients is clipped. With several
        processes losses and gradients are those of the joint batch. Raises ProcessesDiffer.

        Nothing waits for the device here: whether all was finite is found by `read_losses`.
        """
        self.processes.check_same(n, names)
        self.module.train()
        self.optimizer.zero_grad(set_to_none=True)
        values = []
        with fixed_generators(self.seed, Stream.DROP, n, self.processes.rank, device=self.device):
            for loss, weight in zip(losses, weights or [1.0] * len(names), strict=True):
                self.scaler.scale(loss * weight).backward()
                values.append(loss.detach())
        joint = self.processes.mean(torch.stack(values))
        self.processes.average_gradients(self.module.parameters())
        self.processes.average_statistics(self.module)
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.config.clip or math.inf)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update(self.module, step=n)  # type: ignore[operator]
        self._unread.append((n, names, torch.cat([joint, norm.to(joint)[None]])))

    def read_losses(self) -> None:
        """Take the losses of the steps since the last call from the device.

        Raises Diverged naming the first step, and what of it, that was not finite.
        """
        unread, self._unread = self._unread, []
        if not unread:
            return
        values: list[float] = torch.cat([tensor for *_, tensor in unread]).tolist()
        for n, names, _ in unread:
            *losses, norm = values[: len(names) + 1]
            values = values[len(names) + 1 :]
            for name, loss in zip(names, losses, strict=True):
                if not math.isfinite(loss):
                    raise Diverged(f"step {n}: the loss of {name} is {loss}; a lower lr may help")
            if not self.scaler.is_enabled() and not math.isfinite(norm):  # it skips such a step
                raise Diverged(
                    f"step {n}: the gradient norm of {', '.join(names)} is {norm}; a lower lr may "
                    "help"
                )
            self.progress.loss_sum += sum(losses)
            self.progress.losses += len(losses)
            self.last_loss = losses[-1]
        if self.scaler.is_enabled() and self.scaler.get_scale() < _LEAST_SCALE:
            raise Diverged(
                f"step {unread[-1][0]}: fp16 gradients are not finite, however small the loss is "
                "scaled; precision bf16 or fp32, or a lower lr, may help"
            )

    def state(self, task: Task) -> dict[str, Any]:
        """All that a checkpoint holds."""
        parts = {name: getattr(self, name) for name in _PARTS}
        state = {name: None if part is None else part.state_dict() for name, part in parts.items()}
        return state | {"progress": asdict(self.progress), "task": task.state()}

    def load_state(self, state: dict[str, Any], task: Task) -> None:
        """The inverse of `state`. Raises nearly anything for what does not fit."""
        for name in _PARTS:
            part = getattr(self, name)
            if part is not None:
                part.load_state_dict(state[name])
        self.progress = validated(Progress, state["progress"], "progress")
        if self.progress.step > task.steps:
            raise BadInput(f"step {self.progress.step} of {task.steps}")
        task.load_state(state["task"])


def is_trained(run: RunFolder) -> bool:
    """Whether nothing is left to train, so that no teacher is needed."""
    return run.is_finished and (run.path / CHECKPOINT).exists()


def fit(run: RunFolder, task: Task, trainer: Trainer, seconds: float = 0.0) -> None:
    """Train from the last checkpoint of the run folder, or from the start, to the end. seconds: of
    work before the start.

    Everything random is a function of (seed, step), so a killed run continues to the same weights
    and log as an unbroken one (on the CPU, with as many processes). Raises Diverged, leaving the
    last good checkpoint, and ProcessesDiffer.
    """
    config, processes, steps = trainer.config, trainer.processes, task.steps
    with processes.together():
        log = _restore(run, task, trainer)
    if config.sync_bn:
        processes.join_batch_norms(trainer.module)
    schedule = make_schedule(config, trainer.optimizer, task.position(steps), task.steps_per_epoch)
    progress, first = trainer.progress, trainer.progress.step
    log_every = max(1, steps // _LOG_ROWS)
    before = run.seconds if first else seconds
    about = hardware(trainer.device) | {"processes": processes.world}
    started = saved = time.monotonic()

    def save() -> None:
        write_jsonl(run.path / LOG, log)
        save_checkpoint(run.path / CHECKPOINT, trainer.state(task))
        run.store_timing(before + time.monotonic() - started, about)

    writes = processes.is_main and first < steps  # a finished run stays as it is
    with ProgressBar(task.title, steps, first) as bar, _board(run, log, writes) as board:
        for n in range(first, steps):
            schedule.set(task.position(n))
            task.step(trainer, n)
            progress.step, last = n + 1, n + 1 == steps
            every = task.validate_every
            validates = every is not None and (progress.step % every == 0 or last)
            logs = validates or last or progress.step % log_every == 0
            due = validates or last or time.monotonic() - saved >= config.checkpoint_seconds
            # All processes read at the same steps, so that all of them find what is not finite.
            reads = logs or progress.step % _READ_EVERY == 0 or (due and processes.world == 1)
            if reads:
                trainer.read_losses()
            if logs:
                row = {
                    "step": progress.step,
                    **task.row(progress.step),
                    **({"loss": progress.loss_sum / progress.losses} if progress.losses else {}),
                    "lr": trainer.optimizer.param_groups[0]["lr"],
                }
                if validates:
                    row |= task.validate(trainer, progress.step)
                progress.loss_sum, progress.losses = 0.0, 0
                log.append(row)
                board(row)
            if not processes.is_main:
                continue
            if due and reads:
                save()
                saved = time.monotonic()
            done = task.position(progress.step) - task.position(first)
            rate = done * task.images_per_step / (time.monotonic() - started)
            bar.advance(1, _note(task, trainer, rate))


def _note(task: Task, trainer: Trainer, rate: float) -> str:
    done = ", ".join(f"{name} {x:.2f}" for name, x in task.row(trainer.progress.step).items())
    loss = "" if math.isnan(trainer.last_loss) else f", loss {trainer.last_loss:.3f}"
    return f"{done}{loss}{task.note()}, {rate:.0f} images/s"


@contextmanager
def _board(
    run: RunFolder, log: list[dict[str, Any]], writes: bool
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Writes rows of the log for TensorBoard; a resumed run writes those of the past anew.

    A killed run lost those that it had not flushed, and wrote some that will come again.
    """
    if not writes:
        yield lambda row: None
        return
    from torch.utils.tensorboard import SummaryWriter  # here: it takes a second to import

    folder = run.path / "tensorboard"
    with _quiet_threads(), SummaryWriter(folder, purge_step=0) as writer:

        def write(row: dict[str, Any]) -> None:
            for name, value in row.items():
                if name != "step" and not isinstance(value, str):
                    writer.add_scalar(name, value, row["step"])

        for row in log:
            write(row)
        yield write


@contextmanager
def _quiet_threads() -> Iterator[None]:
    """Without the traceback of a thread that met a full disk: TensorBoard's writer raises the same
    error where it is used.
    """
    hook = threading.excepthook

    def unless_full(caught: threading.ExceptHookArgs) -> None:
        if not isinstance(caught.exc_value, OSError):
            hook(caught)

    threading.excepthook = unless_full
    try:
        yield
    finally:
        threading.excepthook = hook


def _restore(run: RunFolder, task: Task, trainer: Trainer) -> list[dict[str, Any]]:
    """Put a trainer where its last checkpoint stands, if there is one; the log up to there."""
    path = run.path / CHECKPOINT
    if not path.exists():
        return []
    state = current_checkpoint(load_checkpoint(path))
    try:
        trainer.load_state(state, task)
    except Exception:  # optimizers and modules check little of what they are given
        raise BadInput(f"{path} does not fit what {run.path / 'run.json'} says") from None
    rows = [row.model_dump() for row in read_jsonl(run.path / LOG, _LogRow)]
    return [row for row in rows if row["step"] <= trainer.progress.step]
