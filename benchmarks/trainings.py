"""What benchmarks take from trainings: whole runs by the command line, and single steps."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mobilenas.base.files import read_json, write_json
from mobilenas.nn import Network, Supernet
from mobilenas.space import Arch, Space
from mobilenas.strategies.supernet_task import SupernetTask
from mobilenas.train.config import NetworkConfig, SupernetConfig, TrainingConfig
from mobilenas.train.network_task import NetworkTask
from mobilenas.train.recipe import Objective
from mobilenas.train.trainer import Task, Trainer


def finished(out: Path, command: str, *, result: str = "result.json", **flags: Any) -> Any:
    """What a run of a command of mobilenas came to: it is made, continued, or already there.

    command: its words. result: the file in the run folder that comes last. flags: by name; a list
    gives one several times.
    """
    if not (out / result).exists():
        words = [sys.executable, "-m", "mobilenas", *command.split(), "--out", out]
        if (out / "run.json").exists():
            words.append("--resume")
            flags.pop("from", None)  # the run has what it inherits
        for name, value in flags.items():
            flag = f"--{name.replace('_', '-')}" if len(name) > 1 else f"-{name}"
            for each in value if isinstance(value, list) else [value]:
                words += [flag] if each is True else [flag, each]
        code = subprocess.call(list(map(str, words)), stdout=sys.stderr)
        if code:
            raise SystemExit(code)
    return read_json(out / result)


def space_file(space: Space, path: Path) -> Path:
    """A file of a space, as --space takes it."""
    write_json(path, space.to_dict())  # JSON is YAML
    return path


def stand_alone(
    folder: Path,
    space: Path,
    arch: Arch,
    *,
    data: str,
    preset: str,
    settings: Sequence[str],
    seed: int,
) -> float:
    """Percent of the validation images that an arch has right after its last epoch."""
    result = finished(
        folder / f"{arch}-s{seed}",
        "train",
        space=space,
        arch=arch,
        data=data,
        preset=preset,
        seed=seed,
        set=list(settings),
    )
    return 100 * float(result["last_accuracy"])


class Steps:
    """Training steps of a module on batches that are given: `steps(n)` does step n.

    device: of the module; the batches must be there.
    """

    def __init__(
        self,
        module: Any,
        config: TrainingConfig,
        task: Task,
        batches: Sequence[Any],
        device: str = "cpu",
    ) -> None:
        given: Any = SimpleNamespace(iterate=lambda start, stop: iter(batches[start:stop]))
        self.trainer = Trainer(module, config, given, device=device)
        self.task = task

    def __call__(self, n: int) -> None:
        """One step, the loss read."""
        self.task.step(self.trainer, n)
        self.trainer.read_losses()


def network_steps(
    network: Network, config: NetworkConfig, batches: Sequence[Any], device: str = "cpu"
) -> Steps:
    """The steps of `mobilenas train`."""
    run: Any = SimpleNamespace(settings=SimpleNamespace(config=config), arch=network.arch)
    objective = Objective(config, network.num_classes, 0, None)
    return Steps(network, config, NetworkTask(run, objective, len(batches)), batches, device)


def supernet_steps(
    supernet: Supernet, config: SupernetConfig, batches: Sequence[Any], archs: Sequence[Arch]
) -> Steps:
    """The steps of `mobilenas supernet-train`, of one arch each."""
    strategy: Any = SimpleNamespace(
        passes_per_step=1, steps_per_superstep=1, archs=lambda n: [archs[n]]
    )
    objective = Objective(config, supernet.space.num_classes, 0, None)
    return Steps(supernet, config, SupernetTask(strategy, config, objective, 1), batches)
