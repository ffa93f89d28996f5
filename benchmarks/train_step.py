"""How fast is a training step of a network? This project against timm's MobileNetV2, in one run.

A step is one batch: forward, backward, clipping, SGD update. The rows:

- timm: mobilenetv2_100, channels_last, a plain loop, a default process environment;
- mobilenetv2_100: the same network from this project's blocks (equal MACs and params), trained by
  `train_step` of `mobilenas train`;
- fairnas_a: a searched one, with 7x7 depthwise convolutions.

Images a second are multiplied by the network's GMACs. In a round each way gets a fresh process, in
turn; the ratio is that of the medians.

    python benchmarks/train_step.py --rounds 5
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from mobilenas.base.process import tune_process

if set(sys.argv) & {"--worker=mobilenetv2_100", "--worker=fairnas_a"}:
    tune_process()  # before torch is imported

import torch
from torch import Tensor, nn

from mobilenas.cost import CostModel
from mobilenas.nn import Network
from mobilenas.space import load_space
from mobilenas.space.published import PUBLISHED
from mobilenas.train.alone import Training, train_step
from mobilenas.train.config import TrainConfig
from mobilenas.train.device import hardware
from mobilenas.train.distributed import SINGLE
from mobilenas.train.recipe import Mixer, make_optimizer

WAYS = ("timm", "mobilenetv2_100", "fairnas_a")
CONFIG = TrainConfig(lr=0.01, weight_decay=4e-5, precision="fp32", clip=5.0)
TUNING = ("OMP_WAIT_POLICY", "GOMP_", "KMP_", "MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=6, help="timed steps a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--worker", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.worker:
        print(json.dumps(work(options)))
        return
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for round_number in range(options.rounds):
        for way in WAYS:
            found[way].append(in_a_process(way))
        shown = ", ".join(f"{way} {values[-1]:.2f}" for way, values in found.items())
        print(f"round {round_number + 1}: images/s x GMACs: {shown}", file=sys.stderr)
    base = statistics.median(found["timm"])
    print("| network | images/s x GMACs, median [min, max] | ratio | n |\n|---|---|---|---|")
    for way, values in found.items():
        middle = statistics.median(values)
        extent = f"{middle:.2f} [{min(values):.2f}, {max(values):.2f}]"
        print(f"| {way} | {extent} | {middle / base:.2f} | {len(values)} |")
    print(f"\nbatch {options.batch}, {options.size} px, {hardware(torch.device('cpu'))}")


def in_a_process(way: str) -> float:
    environment = {k: v for k, v in os.environ.items() if not re.match("|".join(TUNING), k)}
    command = [sys.executable, *sys.argv, f"--worker={way}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout))


def work(options: argparse.Namespace) -> float:
    """Images a second times GMACs of one way."""
    generator = torch.Generator().manual_seed(0)
    shape = (options.batch, 3, options.size, options.size)
    images = torch.randn(shape, generator=generator).to(memory_format=torch.channels_last)
    labels = torch.randint(1000, (options.batch,), generator=generator)
    named = "fairnas_a" if options.worker == "fairnas_a" else "mobilenetv2_100"
    reference, text = PUBLISHED[named]
    space = load_space(reference)
    arch = space.parse(text)
    gmacs = CostModel(space).flops(arch) / 1e9 * (options.size / space.resolution) ** 2
    step = timm_step() if options.worker == "timm" else own_step(Network(space, arch))
    for _ in range(2):
        step(images, labels)
    started = time.perf_counter()
    for _ in range(options.steps):
        step(images, labels)
    return options.steps * options.batch * gmacs / (time.perf_counter() - started)


def timm_step() -> Callable[[Tensor, Tensor], object]:
    """A training step as one writes it by hand."""
    import timm

    model = timm.create_model("mobilenetv2_100").to(memory_format=torch.channels_last).train()
    optimizer = make_optimizer(CONFIG, model)
    clip = CONFIG.clip
    assert clip is not None

    def step(images: Tensor, labels: Tensor) -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()

    return step


def own_step(network: Network) -> Callable[[Tensor, Tensor], object]:
    """The step of `mobilenas train`."""
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    training = Training(network, None, make_optimizer(CONFIG, network), scaler)
    mixer = Mixer(CONFIG, network.num_classes, seed=0)

    def step(images: Tensor, labels: Tensor) -> None:
        train_step(training, CONFIG, mixer, None, (images, labels), SINGLE)

    return step


if __name__ == "__main__":
    main()
