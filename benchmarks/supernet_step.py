"""How fast is a supernet training step? This project against plain PyTorch, in one run.

A step is one arch of space `s1` on one batch: forward, backward, clipping, SGD update. Three ways:

- baseline: the MixPath supernet and loop as released, rewritten below from a description of them:
  stock modules, contiguous tensors, the default environment of a process;
- channels_last: the same, with the memory format channels_last and nothing else;
- mobilenas: `Supernet` and `train_step`, that is channels_last, the depthwise weight gradient of
  `mobilenas.nn.depthwise`, in-place activations, and the settings of `tune_process`.

All three have the same weights, archs and batches. Before anything is timed, the logits of baseline
and mobilenas must agree, at first and again after one update each. Every block has the same number
of active paths; expansions and kernels are drawn. A round gives each way a fresh process, in turn,
and repeats the same steps, so that the spread over rounds is that of the machine.

    python benchmarks/supernet_step.py
"""

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from mobilenas.process import tune_process

if "--worker=mobilenas" in sys.argv:
    tune_process()  # before torch is imported, and in these processes only

import numpy as np
import torch
from torch import Tensor, nn

from mobilenas.config import SupernetConfig
from mobilenas.nn import Supernet
from mobilenas.space import Arch, Block, Candidate, Space, load_space
from mobilenas.train.loop import hardware, train_step

WAYS = ("baseline", "channels_last", "mobilenas")
CONFIG = SupernetConfig(device="cpu")  # the released lr, momentum, weight decay and clipping
CHECK_BATCH = 8
TOLERANCE = 1e-4
SEED = 0
# What a user may have set, and a default process has not.
TUNING = ("OMP_WAIT_POLICY", "GOMP_", "KMP_", "MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")


def conv_bn_relu6(cin: int, cout: int, kernel: int, stride: int, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(cout), nn.ReLU6())


class PlainBranch(nn.Module):
    """One expansion rate of a block: expand, sum of depthwise paths, project, shadow BN."""

    def __init__(self, block: Block, rate: int) -> None:
        super().__init__()
        hidden = block.in_channels * rate
        self.expand = conv_bn_relu6(block.in_channels, hidden, 1, 1)
        self.paths = nn.ModuleList(
            conv_bn_relu6(hidden, hidden, k, block.stride, hidden) for k in block.kernels
        )
        self.project = nn.Conv2d(hidden, block.out_channels, 1, bias=False)
        self.bns = nn.ModuleList(nn.BatchNorm2d(block.out_channels) for _ in block.kernels)

    def forward(self, x: Tensor, active: list[int]) -> Tensor:
        x = self.expand(x)
        total = self.paths[active[0]](x)
        for path in active[1:]:
            total = total + self.paths[path](x)
        return self.bns[len(active) - 1](self.project(total))


class PlainSupernet(nn.Module):
    """The supernet of the released MixPath code; an arch is (rate, active paths) a block."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.stem = conv_bn_relu6(3, space.stem_channels, 3, 1)
        self.blocks = nn.ModuleList(
            nn.ModuleList(PlainBranch(block, rate) for rate in block.expansions)
            for block in space.blocks
        )
        self.residual = [block.keeps_shape for block in space.blocks]
        self.head = conv_bn_relu6(space.blocks[-1].out_channels, space.head_channels, 1, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(space.head_channels, space.num_classes)

    def forward(self, x: Tensor, choice: list[tuple[int, list[int]]]) -> Tensor:
        x = self.stem(x)
        for branches, residual, (rate, active) in zip(
            self.blocks, self.residual, choice, strict=True
        ):
            y = branches[rate](x, active)
            x = x + y if residual else y
        return self.classifier(self.pool(self.head(x)).flatten(1))


def build(space: Space) -> tuple[Supernet, PlainSupernet]:
    """Both supernets with the same weights; the modules of both come in the same order."""
    generator = torch.Generator().manual_seed(SEED)
    ours = Supernet(space, generator=generator)
    for module in ours.modules():  # zeros at the start of training would hide whole branches
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
    plain = PlainSupernet(space)
    tensors = ours.state_dict().values()
    plain.load_state_dict(dict(zip(plain.state_dict(), tensors, strict=True)))
    return ours.to(memory_format=torch.channels_last), plain


def make_steps(space: Space, paths: int, batch: int, n: int) -> list[tuple[Tensor, Tensor, Arch]]:
    """Images, labels and arch of n steps; every block of an arch has `paths` active paths."""
    rng = np.random.default_rng([SEED, paths])
    steps = []
    for _ in range(n):
        candidates = []
        for block in space.blocks:
            kernels = sorted(int(k) for k in rng.choice(block.kernels, paths, replace=False))
            candidates.append(Candidate(int(rng.choice(block.expansions)), (tuple(kernels),)))
        images = rng.standard_normal((batch, 3, space.resolution, space.resolution), np.float32)
        labels = rng.integers(space.num_classes, size=batch)
        steps.append((torch.from_numpy(images), torch.from_numpy(labels), Arch(tuple(candidates))))
    return steps


def plain_choice(space: Space, arch: Arch) -> list[tuple[int, list[int]]]:
    """An arch as the baseline writes it: places in the lists of rates and kernels."""
    return [
        (block.expansions.index(c.expansion), [block.kernels.index(k) for k in c.kernels[0]])
        for block, c in zip(space.blocks, arch.blocks, strict=True)
    ]


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(
        model.parameters(), CONFIG.lr, CONFIG.momentum, weight_decay=CONFIG.weight_decay
    )


def our_stepper(supernet: Supernet) -> Callable[[Tensor, Tensor, Arch], object]:
    optimizer, scaler = sgd(supernet), torch.amp.GradScaler("cpu", enabled=False)
    return lambda x, y, arch: train_step(supernet, optimizer, scaler, (x, y), [arch], CONFIG)


def plain_stepper(
    supernet: PlainSupernet, space: Space
) -> Callable[[Tensor, Tensor, Arch], object]:
    optimizer, criterion = sgd(supernet), nn.CrossEntropyLoss()
    supernet.train()

    def step(images: Tensor, labels: Tensor, arch: Arch) -> float:
        optimizer.zero_grad()
        loss = criterion(supernet(images, plain_choice(space, arch)), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(supernet.parameters(), CONFIG.clip)
        optimizer.step()
        return loss.item()

    return step


def check(space: Space, all_paths: list[int]) -> dict[str, float]:
    """The largest difference of the logits before and after an update. Raises SystemExit."""
    worst = 0.0
    for paths in all_paths:
        ours, plain = build(space)
        step_ours, step_plain = our_stepper(ours), plain_stepper(plain, space)
        [(images, labels, arch)] = make_steps(space, paths, CHECK_BATCH, 1)
        for moment in ("before", "after"):
            with torch.no_grad():
                difference = ours(images, arch) - plain(images, plain_choice(space, arch))
            worst = max(worst, difference.abs().max().item())
            if not worst <= TOLERANCE:
                raise SystemExit(f"{paths} paths: logits {moment} an update differ by {worst}")
            step_ours(images, labels, arch)
            step_plain(images, labels, arch)
    return {"worst": worst}


def measure(way: str, space: Space, all_paths: list[int], batch: int, n: int) -> dict[str, object]:
    """Images/s over n steps for each number of paths, each after one step to warm up."""
    ours, plain = build(space)
    if way == "channels_last":
        plain.to(memory_format=torch.channels_last)
    step = our_stepper(ours) if way == "mobilenas" else plain_stepper(plain, space)
    rates = []
    for paths in all_paths:
        warm_up, *steps = make_steps(space, paths, batch, 1 + n)
        step(*warm_up)
        started = time.perf_counter()
        for item in steps:
            step(*item)
        rates.append(n * batch / (time.perf_counter() - started))
    return hardware(torch.device("cpu")) | {"rates": rates}


def run_worker(worker: str) -> dict[str, object]:
    """This script again, in a fresh process without settings of the user's."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(TUNING)}
    command = [sys.executable, __file__, *sys.argv[1:], f"--worker={worker}"]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(done.returncode)
    return json.loads(done.stdout)


def cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--width", type=float, default=1.0, help="multiplies all channels")
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="timed steps a round, after one more")
    parser.add_argument("--paths", default="1,2,4", help="active paths a block, with commas")
    parser.add_argument("--worker", choices=("check", *WAYS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    space = load_space(f"s1:width={args.width}")
    all_paths = [int(paths) for paths in args.paths.split(",")]
    if args.worker == "check":
        print(json.dumps(check(space, all_paths)))
        return
    if args.worker:
        print(json.dumps(measure(args.worker, space, all_paths, args.batch, args.steps)))
        return

    worst = run_worker("check")["worst"]
    runs = [{way: run_worker(way) for way in WAYS} for _ in range(args.rounds)]
    facts = runs[0]["baseline"]
    print(
        f"images/s through one arch, s1 at width {args.width}, batch {args.batch}: median (min to"
        f" max) of n = {args.rounds} rounds of {args.steps} steps, each after one step to warm up."
        f" {cpu_name()}, {facts['cores']} cores, {facts['threads']} threads, torch"
        f" {facts['torch']}, float32. Logits of baseline and mobilenas before and after an update"
        f" differ by at most {worst:.0e}.\n\n    {shlex.join(['python', *sys.argv])}\n"
    )
    print("| paths a block | " + " | ".join(WAYS) + " | channels_last / baseline |", end="")
    print(" mobilenas / baseline |\n|---|---|---|---|---|---|")
    for i, paths in enumerate(all_paths):
        rates = [[run[way]["rates"][i] for run in runs] for way in WAYS]
        cells = [f"{statistics.median(r):.2f} ({min(r):.2f} to {max(r):.2f})" for r in rates]
        baseline, *others = map(statistics.median, rates)
        cells += [f"{other / baseline:.2f}" for other in others]
        print(f"| {paths} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
