"""What an accelerator brings, and whether all is right on it, in one command.

Checks: no training step waits for the device; losses are those of the CPU; a training that was
stopped goes on as one that was not; two processes, where there are two devices. Figures: steps of
supernets by batch and precision, memory formats, strategies, the evaluation of many archs,
stand-alone training against a plain loop with timm's model. Each row says what was expected before
any device was at hand. Without a device the command ends in one line, with exit code 2.

    python benchmarks/accelerator.py
    python benchmarks/accelerator.py --device cpu --quick
"""

import copy
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch
from harness import Table
from torch import Tensor, nn
from trainings import Steps, network_steps

from mobilenas.base.errors import BadInput
from mobilenas.base.files import read_jsonl
from mobilenas.evaluate.trie import accuracies
from mobilenas.nn import Network, Supernet, fold_batch_norm
from mobilenas.space import Space, load_space
from mobilenas.space.published import PUBLISHED
from mobilenas.strategies import make_strategy
from mobilenas.strategies.supernet_task import SupernetTask
from mobilenas.train.calibrate import accuracy, inherit, recalibrate
from mobilenas.train.config import NetworkConfig, SupernetConfig
from mobilenas.train.device import MEMORY_FORMATS, autocast_dtype
from mobilenas.train.recipe import Objective, make_optimizer

Row = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """How much is measured. side: of the images of the stand-alone training."""

    spaces: tuple[str, ...] = ("s1", "s2")
    batches: tuple[int, ...] = (96, 512, 1024)
    steps: int = 20
    archs: int = 64
    images: int = 512  # of a batch of evaluation
    side: int = 224
    network_batch: int = 256


QUICK = Sizes(("s1:width=0.125,resolution=8",), (4, 8), 2, 3, 8, 32, 4)


def main(device: str = "cuda", quick: bool = False) -> Iterator[Table]:
    """Checks, then figures. --quick: tiny ones, which show that this command runs."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise BadInput(f"no device {device} here: {str(error).splitlines()[0]}") from None
    sizes = QUICK if quick else Sizes()
    space = load_space(sizes.spaces[0])
    checks = (waits, losses, resumed, processes)
    yield Table([row for check in checks for row in check(space, device, sizes)], {}, "Checks")
    yield Table(
        list(step_rates(device, sizes)),
        {},
        "Supernet steps, images/s of all passes; nan: too large",
    )
    studies = (formats, strategies, evaluation, stand_alone)
    yield Table([row for f in studies for row in f(space, device, sizes)], {}, "Ratios")


def row(what: str, found: float | str, expected: str, is_as_expected: bool | None) -> Row:
    """A line of a table. is_as_expected: None where nothing could be found."""
    words = {True: "yes", False: "NO", None: ""}
    text = found if isinstance(found, str) else f"{found:.3g}"
    return {"what": what, "found": text, "expected": expected, "as expected": words[is_as_expected]}


# --- checks -------------------------------------------------------------------------------------


def waits(space: Space, device: str, sizes: Sizes) -> Iterator[Row]:
    what, expected = "a step waits for the device", "never"
    if torch.device(device).type != "cuda":
        yield row(what, "only CUDA can tell", expected, None)
        return
    steps = supernet_steps(space, device, sizes, 8)
    run(steps, 0, 2)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for n in range(2, 8):
            steps.task.step(steps.trainer, n)
        found = "never"
    except RuntimeError as error:
        found = str(error).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    yield row(what, found, expected, found == expected)


def losses(space: Space, device: str, sizes: Sizes) -> Iterator[Row]:
    """Convolutions of CUDA are in TF32 unless that is switched off."""
    found = [
        run(supernet_steps(space, place, sizes, sizes.steps), 0, sizes.steps)
        for place in ("cpu", device)
    ]
    worst = np.abs(found[1] / found[0] - 1).max()
    what = f"largest difference of a loss from the CPU's, {sizes.steps} steps"
    yield row(what, f"{worst:.1%}", "at most 2 %", worst <= 0.02)


def resumed(space: Space, device: str, sizes: Sizes) -> Iterator[Row]:
    half, count = sizes.steps // 2, sizes.steps
    steps = supernet_steps(space, device, sizes, count)
    run(steps, 0, half)
    state = copy.deepcopy(steps.trainer.state(steps.task))
    whole = run(steps, half, count)
    again = supernet_steps(space, device, sizes, count)
    again.trainer.load_state(state, again.task)
    worst = np.abs(run(again, half, count) / whole - 1).max()
    yield row("difference of a loss after a resume", f"{worst:.2%}", "at most 1 %", worst <= 0.01)


def processes(space: Space, device: str, sizes: Sizes) -> Iterator[Row]:
    """The same training by one process and by two, with joint batch norms, on built-in images."""
    what, expected = "difference of the losses of two processes from one's", "at most 2 %"
    kind = torch.device(device).type
    count = torch.get_device_module(kind).device_count()
    if count < 2:
        yield row(what, f"{count} device{'s' * (count != 1)}", expected, None)
        return
    found = []
    for number in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={number}"]
            asked = [
                "-m",
                "mobilenas",
                "supernet-train",
                "--space=digits",
                "--preset=quick",
                "--set=passes=4",
            ]
            options = [f"--set=device={kind}", "--set=precision=fp32", "--set=sync_bn=true"]
            command = [sys.executable, *launcher, *asked, *options, f"--out={folder}/run"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            rows = read_jsonl(Path(folder) / "run" / "log.jsonl", "loss")
            found.append(np.array([x["loss"] for x in rows[:5]]))
    worst = np.abs(found[1] / found[0] - 1).max()
    yield row(what, f"{worst:.1%}", expected, worst <= 0.02)


# --- figures ------------------------------------------------------------------------------------


def step_rates(device: str, sizes: Sizes) -> Iterator[Row]:
    """By space, precision and batch."""
    for name in sizes.spaces:
        first: dict[str, float] = {}
        for batch in sizes.batches:
            rates = {
                precision: rate(load_space(name), device, sizes, batch, precision=precision)
                for precision in ("fp32", "bf16")
            }
            first = first or rates
            yield {
                "space": name,
                "batch": batch,
                **{precision: f"{x:.0f}" for precision, x in rates.items()},
                "bf16 / fp32": f"{rates['bf16'] / rates['fp32']:.2f}",
                "to the first batch": f"{rates['bf16'] / first['bf16']:.2f}",
                "expected": "bf16 1.2 or more from 512 on, and 2 times the first batch's",
            }


def formats(space: Space, device: str, sizes: Sizes) -> Iterator[Row]:
    ratio = compared(space, device, sizes, "memory_format", "channels_last", "contiguous")
    yield row("supernet step, channels_last / contiguous", ratio, "1 or more", ratio >= 1)


def strategies(space: Space, device: str, sizes: Sizes) -> Iterator[Row]:
    ratio = compared(space, device, sizes, "strategy", "fair", "uniform")
    yield row("images/s of all passes, fair / uniform", ratio, "0.9 or more", ratio >= 0.9)


def compared(space: Space, device: str, sizes: Sizes, name: str, value: Any, other: Any) -> float:
    """The ratio of the rates with two values of a setting, at the second batch."""
    found = [rate(space, device, sizes, sizes.batches[1], **{name: x}) for x in (value, other)]
    return found[0] / found[1]


def rate(space: Space, device: str, sizes: Sizes, batch: int, **settings: Any) -> float:
    """Images/s of supernet steps; nan where they do not fit into the device's memory."""
    warm, count = 3, 3 + sizes.steps
    try:
        steps = supernet_steps(space, device, sizes, count, batch=batch, **settings)
        run(steps, 0, warm)
        started = time.perf_counter()
        run(steps, warm, count)
    except torch.OutOfMemoryError:
        return math.nan
    return sizes.steps * steps.task.images_per_step / (time.perf_counter() - started)


def evaluation(space: Space, device: str, sizes: Sizes) -> Iterator[Row]:
    """One batch to recalibrate on, two to score."""
    supernet = Supernet(space, generator=torch.Generator().manual_seed(0)).to(device).eval()
    archs = [space.sample(np.random.default_rng(seed)) for seed in range(sizes.archs)]
    batches = random_batches(space.resolution, space.num_classes, sizes.images, 3, device)
    calibration, validation = [batches[0][0]], batches[1:]

    def together() -> list[float]:
        return accuracies(
            supernet, archs, calibration=lambda: calibration, validation=lambda: validation
        )

    def one_by_one() -> list[float]:
        found = []
        for arch in archs:
            network = inherit(supernet, arch)
            recalibrate(network, calibration)
            found.append(accuracy(fold_batch_norm(network), validation))
        return found

    seconds, answers = [], []
    for way in (together, one_by_one):
        way()
        started = time.perf_counter()
        answers.append(way())
        seconds.append(time.perf_counter() - started)
    ratio, worst = seconds[1] / seconds[0], float(np.abs(np.subtract(*answers)).max())
    yield row(f"{len(archs)} archs, together / one by one", ratio, "1.5 or more", ratio >= 1.5)
    yield row("largest difference of their accuracies", worst, "at most 0.01", worst <= 0.01)


def stand_alone(_: Space, device: str, sizes: Sizes) -> Iterator[Row]:
    """mobilenetv2_100, ours by our trainer against timm's by a plain loop."""
    import timm

    config = NetworkConfig(lr=0.01, weight_decay=4e-5, clip=5.0)
    warm, count = 3, 3 + sizes.steps
    batches = random_batches(sizes.side, 1000, sizes.network_batch, count, device)
    reference, text = PUBLISHED["mobilenetv2_100"]
    space = load_space(reference)
    steps = network_steps(Network(space, space.parse(text)), config, batches, device)
    layout = MEMORY_FORMATS[config.memory_format]
    model = timm.create_model("mobilenetv2_100").to(device, memory_format=layout).train()
    optimizer = make_optimizer(config, model)
    dtype = autocast_dtype(config.precision, torch.device(device))

    def plain(start: int, stop: int) -> None:
        for images, labels in batches[start:stop]:
            optimizer.zero_grad()
            with torch.autocast(torch.device(device).type, dtype, enabled=dtype is not None):
                loss = nn.functional.cross_entropy(model(images.to(memory_format=layout)), labels)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), config.clip or 0)
            optimizer.step()
        loss.item()

    seconds = []
    for way in (lambda a, b: run(steps, a, b), plain):
        way(0, warm)
        started = time.perf_counter()
        way(warm, count)
        seconds.append(time.perf_counter() - started)
    ratio = seconds[1] / seconds[0]
    yield row("stand-alone training, ours / timm's", ratio, "0.9 or more", ratio >= 0.9)


# --- steps --------------------------------------------------------------------------------------


def supernet_steps(
    space: Space,
    device: str,
    sizes: Sizes,
    count: int,
    *,
    batch: int | None = None,
    strategy: str = "uniform",
    **settings: Any,
) -> Steps:
    """Steps of a supernet on random images, in fp32 unless `settings` says otherwise."""
    config = SupernetConfig(**{"precision": "fp32", "clip": 5.0, "lr": 0.01, **settings})
    size = batch or sizes.batches[0]
    config = config.model_copy(update={"batch_size": size})
    batches = random_batches(space.resolution, space.num_classes, size, count, device)
    supernet = Supernet(space, generator=torch.Generator().manual_seed(0))
    objective = Objective(config, space.num_classes, 0, None)
    sampler: Any = make_strategy(strategy, space, 0)  # type: ignore[arg-type]
    return Steps(supernet, config, SupernetTask(sampler, config, objective, size), batches, device)


def random_batches(
    side: int, classes: int, size: int, count: int, device: str
) -> list[tuple[Tensor, Tensor]]:
    """The same on every device; four in turn, as they are to fit into its memory."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(min(4, count)):
        images = torch.randn((size, 3, side, side), generator=generator)
        labels = torch.randint(classes, (size,), generator=generator)
        made.append((images.to(device), labels.to(device)))
    return [made[n % len(made)] for n in range(count)]


def run(steps: Steps, start: int, stop: int) -> np.ndarray:
    """The mean loss of each of these steps; they are read at the end."""
    progress, means = steps.trainer.progress, []
    for n in range(start, stop):
        steps.task.step(steps.trainer, n)
    for _, names, values in steps.trainer._unread:
        means.append(values[: len(names)].mean())
    steps.trainer.read_losses()
    progress.loss_sum, progress.losses = 0.0, 0
    return torch.stack(means).double().cpu().numpy()


if __name__ == "__main__":
    harness.main(main)
