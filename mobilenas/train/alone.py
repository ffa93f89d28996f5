"""Training one network alone, with the recipe of a config; resume bit for bit."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from mobilenas.base.errors import BadInput, Diverged
from mobilenas.base.files import read_jsonl, write_json, write_jsonl
from mobilenas.base.progress import ProgressBar
from mobilenas.base.randomness import Stream, fixed_generators
from mobilenas.nn import Network
from mobilenas.nn.saved import save_network
from mobilenas.train.alone_run import (
    TrainRun,
    eval_batches,
    fresh_network,
    make_teacher,
    new_network,
    train_batches,
)
from mobilenas.train.calibrate import Batch, accuracy
from mobilenas.train.checkpoint import load_checkpoint, save_checkpoint
from mobilenas.train.config import TrainConfig
from mobilenas.train.device import MEMORY_FORMATS, autocast_dtype, hardware, pick_device
from mobilenas.train.distill import Teacher, distillation
from mobilenas.train.distributed import SINGLE, Processes
from mobilenas.train.folder import worked_seconds
from mobilenas.train.recipe import Mixer, cross_entropy, make_average, make_optimizer, make_schedule

_PARTS = ("network", "average", "optimizer", "scaler")  # of Training, in a checkpoint
_STATE = (*_PARTS, "progress")
_LOG_ROWS = 400  # about so many rows a run, however long


@dataclass
class Progress:
    """Where training stands; with weights and optimizer, all that a checkpoint holds."""

    step: int = 0
    loss_sum: float = 0.0  # over the steps since the last row of the log
    loss_steps: int = 0
    best_accuracy: float = -1.0  # on the validation images
    best_step: int = 0
    last_accuracy: float = -1.0


@dataclass
class Training:
    """What training changes."""

    network: Network
    average: nn.Module | None  # timm's ModelEmaV3
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    progress: Progress = field(default_factory=Progress)
    log: list[dict[str, Any]] = field(default_factory=list)

    @property
    def kept(self) -> Network:
        """The network that is validated and kept: the moving average where there is one."""
        kept = self.network if self.average is None else self.average.module
        assert isinstance(kept, Network)
        return kept


def train_network(run: TrainRun, processes: Processes = SINGLE) -> Progress:
    """Train from the last checkpoint of the run folder, or from the start, to the end.

    Everything random is a function of (seed, step), so a killed run continues to the same weights
    and log as an unbroken one (on the CPU). Raises Diverged, leaving the last good checkpoint.
    """
    config, seed = run.settings.config, run.settings.seed
    with processes.together():
        device = pick_device(config.device)
        batches = train_batches(run, device, processes)
        training = _restore(run, device)
        teacher = make_teacher(run)
    if config.sync_bn:
        processes.join_batch_norms(training.network)
    progress = training.progress
    per_epoch = batches.steps_per_epoch
    steps = max(1, round(config.epochs * per_epoch))
    if teacher is not None:
        teacher.to(device)
    schedule = make_schedule(config, training.optimizer, steps, per_epoch)
    mixer = Mixer(config, run.space.num_classes, seed)
    validate_every = max(1, round(config.validate_every * per_epoch))
    log_every = max(1, steps // _LOG_ROWS)
    started = saved = time.monotonic()
    first, before = progress.step, worked_seconds(run.folder) if progress.step else 0.0

    about = hardware(device) | {"processes": processes.world}

    def save() -> None:
        write_jsonl(run.folder / "log.jsonl", training.log)
        _save(run, training)
        seconds = before + time.monotonic() - started
        write_json(run.folder / "timing.json", {"seconds": seconds} | about)

    writes = processes.is_main and first < steps  # a finished run stays as it is
    with ProgressBar("train", steps, first) as bar, _board(run, training, writes) as board:
        for images, labels in batches.iterate(first, steps):
            schedule.set(progress.step)
            processes.check_same(progress.step, [run.arch])
            with fixed_generators(seed, Stream.DROP, progress.step, processes.rank, device=device):
                loss = train_step(training, config, mixer, teacher, (images, labels), processes)
            progress.loss_sum += loss
            progress.loss_steps += 1
            progress.step += 1
            validated = progress.step % validate_every == 0 or progress.step == steps
            if validated:
                validate(run, training, processes)
            if validated or progress.step % log_every == 0:
                board(_log(training, per_epoch, validated))
            if not processes.is_main:
                continue
            if validated or time.monotonic() - saved >= config.checkpoint_seconds:
                save()
                saved = time.monotonic()
            rate = (progress.step - first) * config.batch_size / (time.monotonic() - started)
            bar.advance(1, _note(training, per_epoch, loss, rate))
    if processes.is_main:
        save_network(training.kept, run.last, run.info(progress.last_accuracy, is_best=False))
    return progress


def train_step(
    training: Training,
    config: TrainConfig,
    mixer: Mixer,
    teacher: Teacher | None,
    batch: Batch,
    processes: Processes,
) -> float:
    """One optimizer step; returns the loss of the joint batch.

    With several processes `batch` is the share of this one. Raises Diverged before any weight is
    updated.
    """
    step = training.progress.step
    network, optimizer, scaler = training.network, training.optimizer, training.scaler
    network.train()
    optimizer.zero_grad(set_to_none=True)
    images, target = mixer(*batch, step)
    images = images.contiguous(memory_format=MEMORY_FORMATS[config.memory_format])
    dtype = autocast_dtype(config.precision, images.device)
    with torch.autocast(images.device.type, dtype, enabled=dtype is not None):
        logits = network(images)
        taught = None if teacher is None else teacher(images)
    loss = cross_entropy(logits.float(), target, config.label_smoothing)
    if taught is not None:
        softened = distillation(logits.float(), taught.float(), config.distill_temperature)
        loss = torch.lerp(loss, softened, config.distill_weight)
    scaler.scale(loss).backward()
    value = processes.mean(loss.detach()).item()
    if not math.isfinite(value):
        raise Diverged(f"step {step}: the loss is {value}; a lower lr may help")
    processes.average_gradients(network.parameters())
    processes.average_statistics(network)
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(network.parameters(), config.clip or math.inf)
    if not scaler.is_enabled() and not torch.isfinite(norm):  # the scaler skips such a step
        raise Diverged(f"step {step}: the gradient norm is {norm.item()}; a lower lr may help")
    scaler.step(optimizer)
    scaler.update()
    if training.average is not None:
        training.average.update(network, step=step)  # type: ignore[operator]
    return value


def validate(run: TrainRun, training: Training, processes: Processes) -> None:
    """Measure the kept network on the validation images; save it if it is the best so far."""
    progress = training.progress
    device = next(training.network.parameters()).device
    mine = run.splits.validate[processes.rank :: processes.world]
    batches = eval_batches(run, run.data.train, device, mine)
    right = accuracy(training.kept, batches) * len(mine) if len(mine) else 0.0
    all_right = processes.mean(torch.tensor(right, dtype=torch.float64)) * processes.world
    progress.last_accuracy = round(all_right.item()) / len(run.splits.validate)
    if progress.last_accuracy > progress.best_accuracy:
        progress.best_accuracy, progress.best_step = progress.last_accuracy, progress.step
        if processes.is_main:
            save_network(training.kept, run.network, run.info(progress.best_accuracy, is_best=True))


def _log(training: Training, per_epoch: int, validated: bool) -> dict[str, Any]:
    """A new row of the log."""
    progress = training.progress
    row = {
        "step": progress.step,
        "epoch": progress.step / per_epoch,
        "loss": progress.loss_sum / progress.loss_steps,
        "lr": training.optimizer.param_groups[0]["lr"],
    }
    if validated:
        row["accuracy"] = progress.last_accuracy
    training.log.append(row)
    progress.loss_sum, progress.loss_steps = 0.0, 0
    return row


def _note(training: Training, per_epoch: int, loss: float, rate: float) -> str:
    progress = training.progress
    best = f", best {100 * progress.best_accuracy:.2f} %" if progress.best_step else ""
    return f"epoch {progress.step / per_epoch:.2f}, loss {loss:.3f}{best}, {rate:.0f} images/s"


@contextmanager
def _board(
    run: TrainRun, training: Training, writes: bool
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Writes rows of the log for TensorBoard; a resumed run writes those of the past anew.

    A killed run lost those that it had not flushed, and wrote some that will come again.
    """
    if not writes:
        yield lambda row: None
        return
    from torch.utils.tensorboard import SummaryWriter  # here: it takes a second to import

    with SummaryWriter(run.folder / "tensorboard", purge_step=0) as writer:

        def write(row: dict[str, Any]) -> None:
            for name in row.keys() - {"step"}:
                writer.add_scalar(name, row[name], row["step"])

        for row in training.log:
            write(row)
        yield write


def _restore(run: TrainRun, device: torch.device) -> Training:
    config = run.settings.config
    resumed = run.checkpoint.exists()
    state = load_checkpoint(run.checkpoint, *_STATE) if resumed else {}
    network = fresh_network(run) if resumed else new_network(run)
    network.to(device, memory_format=MEMORY_FORMATS[config.memory_format])  # type: ignore[call-overload]
    training = Training(
        network,
        make_average(config, network),
        make_optimizer(config, network),
        torch.amp.GradScaler(device.type, enabled=config.precision == "fp16"),
    )
    if not resumed:
        return training
    try:
        for name in _PARTS:
            part = getattr(training, name)
            if part is not None:
                part.load_state_dict(state[name])
        training.progress = Progress(**state["progress"])
    except (RuntimeError, TypeError, ValueError, KeyError, AttributeError):
        raise BadInput(f"{run.checkpoint} does not fit the arch in run.json") from None
    rows = read_jsonl(run.folder / "log.jsonl", "step")
    training.log = [row for row in rows if row["step"] <= training.progress.step]
    return training


def _save(run: TrainRun, training: Training) -> None:
    parts = {name: getattr(training, name) for name in _PARTS}
    state = {name: None if part is None else part.state_dict() for name, part in parts.items()}
    save_checkpoint(run.checkpoint, state | {"progress": asdict(training.progress)})
