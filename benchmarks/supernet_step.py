"""How fast is a supernet training step? This project against plain PyTorch, in one run.

A step is one arch of space `s1` on one batch: forward, backward, clipping, SGD update. Three ways:

- baseline: the MixPath supernet and loop as released, rewritten here from a description of them,
  with stock modules, contiguous tensors and a default process environment;
- channels_last: the same in that memory format;
- mobilenas: channels_last, the kernels of `nn/kernels/`, in-place ReLU6, `tune_process`.

All have the same weights, archs and batches, and before anything is timed their logits must agree.
All blocks have the same number of active paths, of drawn kernels; expansions alternate. In a round
each way gets a fresh process, in turn; all rounds repeat the same steps.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from mobilenas.base.process import tune_process

if "--worker=mobilenas" in sys.argv:
    tune_process()  # before torch is imported, and in these processes only

import numpy as np
import torch
from torch import Tensor, nn

from mobilenas.nn import Supernet
from mobilenas.space import Arch, Block, Candidate, Space, load_space
from mobilenas.train.config import SupernetConfig
from mobilenas.train.loop import hardware, train_step

WAYS = ("baseline", "channels_last", "mobilenas")
CONFIG = SupernetConfig(precision="fp32", clip=5)
sgd = partial(torch.optim.SGD, lr=0.025, momentum=0.9, weight_decay=3e-4)
TUNING = ("OMP_WAIT_POLICY", "GOMP_", "KMP_", "MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")


def conv_bn_relu6(cin: int, cout: int, kernel: int, stride: int, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(cout), nn.ReLU6())


class PlainBranch(nn.Module):
    """A block at one expansion: expand, depthwise paths, sum, project, batch norm by path count."""

    def __init__(self, block: Block, expansion: int) -> None:
        super().__init__()
        hidden = block.in_channels * expansion
        self.expand = conv_bn_relu6(block.in_channels, hidden, 1, 1)
        self.paths = nn.ModuleDict(
            {str(k): conv_bn_relu6(hidden, hidden, k, block.stride, hidden) for k in block.kernels}
        )
        self.project = nn.Conv2d(hidden, block.out_channels, 1, bias=False)
        self.bns = nn.ModuleList(nn.BatchNorm2d(block.out_channels) for _ in block.kernels)
        self.residual = block.keeps_shape

    def forward(self, x: Tensor, kernels: tuple[int, ...]) -> Tensor:
        hidden = self.expand(x)
        total = self.paths[str(kernels[0])](hidden)
        for k in kernels[1:]:
            total = total + self.paths[str(k)](hidden)
        y = self.bns[len(kernels) - 1](self.project(total))
        return x + y if self.residual else y


class PlainSupernet(nn.Module):
    """The supernet of the released MixPath code."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.stem = conv_bn_relu6(3, space.stem_channels, 3, 1)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({str(e): PlainBranch(block, e) for e in block.expansions})
            for block in space.blocks
        )
        self.head = conv_bn_relu6(space.blocks[-1].out_channels, space.head_channels, 1, 1)
        self.classifier = nn.Linear(space.head_channels, space.num_classes)

    def forward(self, x: Tensor, arch: Arch) -> Tensor:
        x = self.stem(x)
        for branches, candidate in zip(self.blocks, arch.blocks, strict=True):
            x = branches[str(candidate.expansion)](x, candidate.kernels[0])
        return self.classifier(nn.functional.adaptive_avg_pool2d(self.head(x), 1).flatten(1))


def build(space: Space, way: str) -> nn.Module:
    """The supernet, with the same weights in each way."""
    generator = torch.Generator().manual_seed(0)
    ours, plain = Supernet(space, generator=generator), PlainSupernet(space)
    for module in ours.modules():  # initial zeros would hide whole branches from the check
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
    weights = ours.state_dict().values()  # the modules of both come in the same order
    plain.load_state_dict(dict(zip(plain.state_dict(), weights, strict=True)))
    layout = torch.contiguous_format if way == "baseline" else torch.channels_last
    return (ours if way == "mobilenas" else plain).to(memory_format=layout)


def make_steps(space: Space, paths: int, batch: int, n: int) -> list[tuple[Tensor, Tensor, Arch]]:
    rng = np.random.default_rng(0)
    steps = []
    for number in range(n):
        candidates = []
        for i, block in enumerate(space.blocks):
            kernels = tuple(sorted(rng.permutation(block.kernels)[:paths].tolist()))
            candidates.append(Candidate(block.expansions[(i + number) % 2], (kernels,)))
        images = rng.standard_normal((batch, 3, space.resolution, space.resolution), np.float32)
        labels = torch.from_numpy(rng.integers(space.num_classes, size=batch))
        steps.append((torch.from_numpy(images), labels, Arch(tuple(candidates))))
    return steps


def train(model: nn.Module, optimizer: torch.optim.SGD, x: Tensor, y: Tensor, arch: Arch) -> None:
    if isinstance(model, Supernet):
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        train_step(model, optimizer, scaler, (x, y), [arch], CONFIG)
        return
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x, arch), y).backward()
    nn.utils.clip_grad_norm_(model.parameters(), CONFIG.clip)
    optimizer.step()


def check(space: Space, all_paths: list[int]) -> float:
    """The largest difference of logits, before and after an update; at most 1e-4."""
    worst = 0.0
    for paths in all_paths:
        plain, ours = build(space, "baseline"), build(space, "mobilenas")
        [(images, labels, arch)] = make_steps(space, paths, 8, 1)
        for _ in range(2):
            worst = max(worst, (ours(images, arch) - plain(images, arch)).abs().max().item())
            assert worst <= 1e-4, f"{paths} paths: logits differ by {worst}"
            # in one memory format, for the gradients of two differ by 1 %, by rounding alone
            for model in (plain.to(memory_format=torch.channels_last), ours):
                train(model, sgd(model.parameters()), images, labels, arch)
    return worst


def measure(way: str, space: Space, all_paths: list[int], batch: int, n: int) -> list[float]:
    """Images/s over n steps for each number of paths, each after one step to warm up."""
    model = build(space, way)
    optimizer, rates = sgd(model.parameters()), []
    for paths in all_paths:
        warm_up, *steps = make_steps(space, paths, batch, 1 + n)
        train(model, optimizer, *warm_up)
        started = time.perf_counter()
        for step in steps:
            train(model, optimizer, *step)
        rates.append(n * batch / (time.perf_counter() - started))
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--width", type=float, default=1.0, help="multiplies all channels")
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="timed steps a round")
    parser.add_argument("--paths", default="1,2,4", help="numbers of active paths a block")
    parser.add_argument("--worker", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    space = load_space(f"s1:width={args.width}")
    all_paths = [int(paths) for paths in args.paths.split(",")]
    if args.worker:
        print(json.dumps(measure(args.worker, space, all_paths, args.batch, args.steps)))
        return
    worst = check(space, all_paths)
    env = {k: v for k, v in os.environ.items() if not k.startswith(TUNING)}
    command = [sys.executable, *sys.argv]
    rounds = [
        [json.loads(subprocess.check_output([*command, f"--worker={w}"], env=env)) for w in WAYS]
        for _ in range(args.rounds)
    ]
    about, cpuinfo = hardware(torch.device("cpu")), Path("/proc/cpuinfo")
    cpu = re.search("model name.*: (.*)", cpuinfo.read_text() if cpuinfo.exists() else "")
    print(
        f"    python {' '.join(sys.argv)}\n\n"
        f"Images/s, median (min to max) of n = {args.rounds} rounds of {args.steps} steps after one"
        f" to warm up. s1 at width {args.width}, batch {args.batch}, float32, torch"
        f" {about['torch']}, {cpu[1] if cpu else about['machine']}, {about['cores']} cores,"
        f" {about['threads']} threads. Logits differ by {worst:.0e} at most.\n\n"
        f"| paths a block | {' | '.join(WAYS)} | {WAYS[1]} / {WAYS[0]} | {WAYS[2]} / {WAYS[0]} |\n"
        "|---|---|---|---|---|---|"
    )
    for paths, rates in zip(all_paths, np.array(rounds).transpose(2, 1, 0), strict=True):
        cells = [f"{np.median(r):.1f} ({r.min():.1f} to {r.max():.1f})" for r in rates]
        cells += [f"{np.median(r) / np.median(rates[0]):.2f}" for r in rates[1:]]
        print(f"| {paths} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
