"""Stand-alone trainings of many archs of a space, each in a process of its own.

trainings/ARCH/             the run folder of `mobilenas train`
trainings/ARCH/output.txt   what its process printed
truth.csv                   arch, accuracy, validation_images, data_checksum of those that are done
"""

import csv
import io
import logging
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mobilenas.base.errors import BadInput
from mobilenas.base.files import file_name, write_text
from mobilenas.base.process import end_with_parent, release_memory
from mobilenas.base.progress import ProgressBar
from mobilenas.runs import RunFolder
from mobilenas.runs.folder import is_run
from mobilenas.space import space_from_dict
from mobilenas.stages.train import create_network_run
from mobilenas.train.networks import NetworkResult, NetworkSettings
from mobilenas.workers import WorkersAsked, open_workers
from mobilenas.workers.here import Work

TRUTH_FILE = "truth.csv"
COLUMNS = ("arch", "accuracy", "validation_images", "data_checksum")
_SHARED = ("space", "seed", "config", "inherit")  # settings of all trainings
_TRAININGS, _OUTPUT = "trainings", "output.txt"
_TRIES = 2  # of a training whose process dies
_POLL_SECONDS = 0.05

log = logging.getLogger(__name__)


class Trainings(NamedTuple):
    """rows: of all archs that a folder has the training of, by FLOPs: COLUMNS and flops; accuracies
    in 0..1. failed: of the archs that were to be trained now, how the process of each ended.
    """

    rows: list[dict[str, Any]]
    failed: dict[str, str]


def create_trainings(folder: Path, archs: Sequence[str], plan: NetworkSettings) -> list[RunFolder]:
    """The run folders of the trainings of archs, made where they are not there yet.

    plan: the settings of each, whose arch is replaced. Data, recipe and weights are checked before
    any training starts. Raises BadInput, also where a training was started with other settings.
    """
    images, runs = None, []
    space = space_from_dict(plan.space)
    for arch in archs:
        space.parse(arch)
    for arch in archs:
        path, settings = (
            folder / _TRAININGS / file_name(arch),
            plan.model_copy(update={"arch": arch}),
        )
        if is_run(path, "train"):
            runs.append(_started(path, plan))
        else:
            run = create_network_run(path, settings, images)
            images = run.images
            runs.append(run.folder)
    return runs


def _started(path: Path, plan: NetworkSettings) -> RunFolder:
    """A training that is there. Raises BadInput unless it has the settings of the plan."""
    run = RunFolder.open(path, "train")
    settings = run.read(NetworkSettings)
    classes = {"num_classes": settings.space["num_classes"]}  # those of the data
    moved = {"inherit": settings.inherit} if settings.inherit and plan.inherit else {}
    same = plan.model_copy(update={"space": plan.space | classes, **moved})
    run.as_read(settings).check_same({k: getattr(same, k) for k in _SHARED})
    return run


def train_archs(
    folder: Path,
    archs: Sequence[str],
    plan: NetworkSettings,
    *,
    workers: WorkersAsked,
    threads: int,
) -> Trainings:
    """Train archs, as many at once as there are workers, with so many threads each, and note all in
    the truth file. On Ray the folder must be in the same place on all machines.

    What the folder has is kept and continued, trainings of other archs too. plan: as
    `create_trainings` takes it; its data and inherit are where these are now. A process that dies
    is started once more. Raises BadInput, which ends the other trainings.
    """
    runs = create_trainings(folder, archs, plan)
    release_memory()  # of images that the processes read themselves
    left = [run.path for run in runs if not run.is_finished]
    options = ["--data", plan.data, *(["--inherit", plan.inherit] if plan.inherit else [])]
    with ProgressBar("truth", len(runs), len(runs) - len(left)) as bar:

        def note(path: Path) -> None:
            _write_truth(folder)
            accuracy = RunFolder.open(path, "train").result(NetworkResult).last_accuracy
            bar.advance(1, f"{path.name} {100 * accuracy:.2f} %")

        if workers.count is None:
            failed = _run_on_ray(left, _Training(tuple(options), threads), workers, note)
        else:
            failed = _run_all(left, options, workers.count, threads, note)
    return Trainings(_write_truth(folder), {path.name: end for path, end in failed.items()})


def _write_truth(folder: Path) -> list[dict[str, Any]]:
    rows = []
    for path in (folder / _TRAININGS).iterdir():
        run = RunFolder.open(path, "train") if is_run(path, "train") else None
        if run is not None and run.is_finished:
            result = run.result(NetworkResult)
            row = result.model_dump(include={"arch", "validation_images", "flops"})
            row |= {"accuracy": result.last_accuracy}
            rows.append(row | {"data_checksum": run.fact("data_checksum", int)})
    rows.sort(key=lambda row: (row["flops"], row["arch"]))
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / TRUTH_FILE, table.getvalue())
    return rows


def _run_all(
    paths: Sequence[Path],
    options: Sequence[str],
    workers: int,
    threads: int,
    done: Callable[[Path], None],
) -> dict[Path, str]:
    """Finish trainings in processes; how those have ended that died twice. `done`: after each.

    However this ends, its processes end too.
    """
    waiting, tries, failed = deque(paths), dict.fromkeys(paths, 0), {}
    running: dict[Path, subprocess.Popen[bytes]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                path = waiting.popleft()
                tries[path] += 1
                running[path] = _start(path, options, threads)
            time.sleep(_POLL_SECONDS)
            ended = {path: p.returncode for path, p in running.items() if p.poll() is not None}
            for path, code in ended.items():
                del running[path]
                if code == 0:
                    done(path)
                elif code == 2:
                    raise BadInput(_last_line(path).removeprefix("mobilenas: "))
                elif tries[path] < _TRIES:
                    log.info("%s: %s; it is started once more", path.name, _end(path, code))
                    waiting.appendleft(path)
                else:
                    failed[path] = _end(path, code)
    finally:
        for process in running.values():
            process.kill()  # a training may be killed at any time
        for process in running.values():
            process.wait()
    return failed


@dataclass(frozen=True)
class _Training:
    """What a worker on Ray does: it finishes the trainings in run folders."""

    options: tuple[str, ...]
    threads: int

    def __call__(self) -> Work:
        return self.run

    def run(self, what: str, paths: Sequence[str]) -> list[None]:
        for path in map(Path, paths):
            code = _start(path, self.options, self.threads).wait()
            if code == 2:
                raise BadInput(_last_line(path).removeprefix("mobilenas: "))
            if code:
                raise RuntimeError(_end(path, code))
        return [None] * len(paths)


def _run_on_ray(
    paths: Sequence[Path], training: _Training, asked: WorkersAsked, done: Callable[[Path], None]
) -> dict[Path, str]:
    """The same by workers on Ray."""
    failed = {}
    with open_workers(asked, training, training.threads) as workers:
        for outcome in workers("train", [[str(path.resolve())] for path in paths]):
            path = Path(outcome.items[0])
            if outcome.results is None:
                failed[path] = outcome.why
            else:
                done(path)
    return failed


def _start(path: Path, options: Sequence[str], threads: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "mobilenas", "train", "--resume", "--out", str(path)]
    with (path / _OUTPUT).open("ab") as output:
        return subprocess.Popen(
            [*command, *options],
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            preexec_fn=end_with_parent,
        )


def _end(path: Path, code: int) -> str:
    """How a process ended: by which signal, or its last words."""
    return f"killed by signal {-code}" if code < 0 else _last_line(path)


def _last_line(path: Path) -> str:
    lines = (path / _OUTPUT).read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
