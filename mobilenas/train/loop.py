"""Training a supernet: accumulate the passes of a step, clip, update; resume bit for bit."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mobilenas.base.errors import Diverged
from mobilenas.base.files import read_jsonl, write_json, write_jsonl
from mobilenas.base.progress import ProgressBar
from mobilenas.nn import AnySupernet
from mobilenas.space import AnyArch
from mobilenas.train.checkpoint import load_checkpoint, save_checkpoint
from mobilenas.train.config import SupernetConfig
from mobilenas.train.device import MEMORY_FORMATS, autocast_dtype, hardware, pick_device
from mobilenas.train.distributed import SINGLE, Processes
from mobilenas.train.folder import worked_seconds
from mobilenas.train.run import SupernetRun, new_supernet, restored, train_batches
from mobilenas.train.sampling import FairSampler, UniformSampler, make_sampler

_STATE = ("step", "loss_sum", "loss_passes", "model", "optimizer", "scaler")
_LOG_ROWS = 400  # about so many rows a run, however long


@dataclass
class Progress:
    """Where training stands; all that a checkpoint holds beside weights and optimizer."""

    step: int = 0
    loss_sum: float = 0.0  # over the passes since the last row of the log
    loss_passes: int = 0
    log: list[dict[str, Any]] = field(default_factory=list)


def train_supernet(run: SupernetRun, processes: Processes = SINGLE) -> AnySupernet:
    """Train from the last checkpoint of the run folder, or from the start, to the end.

    Everything random is a function of (seed, step), so a killed run continues to the same weights
    and log as an unbroken one (on the CPU, with the same number of processes). Raises Diverged,
    leaving the last good checkpoint, and ProcessesDiffer.
    """
    config, seed = run.settings.config, run.settings.seed
    with processes.together():
        device = pick_device(config.device)
        sampler = make_sampler(config.sampler, run.space, seed)
        batches = train_batches(run, device, processes.share(config.batch_size))
        supernet, optimizer, scaler, progress = _restore(run, device)
    if config.sync_bn:
        processes.join_batch_norms(supernet)
    steps = total_steps(config, len(run.splits.train), sampler)
    images_a_step = config.batch_size * sampler.passes_per_step
    log_every = max(1, steps // _LOG_ROWS)
    started, saved = time.monotonic(), time.monotonic()
    before = worked_seconds(run.folder) if progress.step else 0.0
    about = hardware(device) | {"processes": processes.world}

    def save() -> None:
        write_jsonl(run.folder / "log.jsonl", progress.log)
        _save(run, supernet, optimizer, scaler, progress)
        seconds = before + time.monotonic() - started
        write_json(run.folder / "timing.json", {"seconds": seconds} | about)

    with ProgressBar("supernet", steps, progress.step) as bar:
        while progress.step < steps:
            lr = learning_rate(config, progress.step, steps, len(run.splits.train), images_a_step)
            for group in optimizer.param_groups:
                group["lr"] = lr
            archs = sampler(progress.step)
            processes.check_same(progress.step, archs)
            try:
                losses = train_step(
                    supernet,
                    optimizer,
                    scaler,
                    batches(progress.step),
                    archs,
                    config,
                    processes,
                )
            except Diverged as error:
                raise Diverged(f"step {progress.step}: {error}; a lower lr may help") from None
            progress.loss_sum += sum(losses)
            progress.loss_passes += len(losses)
            progress.step += 1
            passes = progress.step * images_a_step / len(run.splits.train)
            if progress.step % log_every == 0 or progress.step == steps:
                loss = progress.loss_sum / progress.loss_passes
                row = {"step": progress.step, "passes": passes, "loss": loss, "lr": lr}
                progress.log.append(row)
                progress.loss_sum, progress.loss_passes = 0.0, 0
            if not processes.is_main:
                continue
            if time.monotonic() - saved >= config.checkpoint_seconds or progress.step == steps:
                save()
                saved = time.monotonic()
            rate = (progress.step - bar.first) * images_a_step / (time.monotonic() - started)
            bar.advance(1, f"{passes:.2f} passes, loss {losses[-1]:.3f}, {rate:.0f} images/s")
    return supernet


def train_step(
    supernet: AnySupernet,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    batch: tuple[Tensor, Tensor],
    archs: Sequence[AnyArch],
    config: SupernetConfig,
    processes: Processes = SINGLE,
) -> list[float]:
    """One optimizer step on the summed gradients of all archs, each on the same batch.

    Gradients are summed as in FairNAS; weights in no arch have grad None and do not move. The
    gradient norm over the weights in use is clipped. With several processes, `batch` is the share
    of this one, and losses and gradients are those of the joint batch. Returns the loss of each
    pass. Raises Diverged before any weight is updated.
    """
    images, labels = batch
    images = images.contiguous(memory_format=MEMORY_FORMATS[config.memory_format])
    supernet.train()
    optimizer.zero_grad(set_to_none=True)
    losses = []
    dtype = autocast_dtype(config.precision, images.device)
    for arch in archs:
        with torch.autocast(images.device.type, dtype, enabled=dtype is not None):
            logits = supernet(images, arch)
            loss = nn.functional.cross_entropy(
                logits.float(), labels, label_smoothing=config.label_smoothing
            )
        scaler.scale(loss).backward()
        losses.append(loss.detach())
    values: list[float] = processes.mean(torch.stack(losses)).tolist()
    for arch, value in zip(archs, values, strict=True):
        if not math.isfinite(value):
            raise Diverged(f"the loss is {value} for arch {arch}")
    used = [p for p in supernet.parameters() if p.grad is not None]
    processes.average_gradients(used)
    processes.average_statistics(supernet)
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(used, config.clip)
    if not scaler.is_enabled() and not torch.isfinite(norm):
        raise Diverged(f"the gradient norm is {norm.item()} for archs {', '.join(map(str, archs))}")
    scaler.step(optimizer)
    scaler.update()
    return values


def total_steps(
    config: SupernetConfig, num_images: int, sampler: UniformSampler | FairSampler
) -> int:
    """Optimizer steps that spend the budget of passes, rounded up to whole super-steps."""
    steps = math.ceil(config.passes * num_images / (config.batch_size * sampler.passes_per_step))
    whole = sampler.steps_per_superstep if isinstance(sampler, FairSampler) else 1
    return math.ceil(steps / whole) * whole


def learning_rate(
    config: SupernetConfig, step: int, steps: int, num_images: int, images_a_step: int
) -> float:
    """Linear warm-up over `warmup` passes, then a cosine to 1e-8 (the released recipe's end)."""
    warmup = config.warmup * num_images / images_a_step
    if step < warmup:
        return config.lr * (step + 1) / (warmup + 1)
    share = (step - warmup) / max(1.0, steps - warmup)
    return 1e-8 + (config.lr - 1e-8) * 0.5 * (1 + math.cos(math.pi * share))


def _restore(
    run: SupernetRun, device: torch.device
) -> tuple[AnySupernet, torch.optim.SGD, torch.amp.GradScaler, Progress]:
    config = run.settings.config
    resumed = run.checkpoint.exists()
    state = load_checkpoint(run.checkpoint, *_STATE) if resumed else {}
    supernet = (
        restored(run.folder, run.settings, state)
        if resumed
        else new_supernet(run.space, run.settings)
    )
    supernet.to(device, memory_format=MEMORY_FORMATS[config.memory_format])  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(
        supernet.parameters(),
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )
    scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
    progress = Progress()
    if resumed:
        optimizer.load_state_dict(state["optimizer"])
        scaler.load_state_dict(state["scaler"])
        rows = read_jsonl(run.folder / "log.jsonl", "step")
        log = [row for row in rows if row["step"] <= state["step"]]
        progress = Progress(state["step"], state["loss_sum"], state["loss_passes"], log)
    return supernet, optimizer, scaler, progress


def _save(
    run: SupernetRun,
    supernet: AnySupernet,
    optimizer: torch.optim.SGD,
    scaler: torch.amp.GradScaler,
    progress: Progress,
) -> None:
    state = {
        "step": progress.step,
        "loss_sum": progress.loss_sum,
        "loss_passes": progress.loss_passes,
        "model": supernet.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
    }
    save_checkpoint(run.checkpoint, state)
