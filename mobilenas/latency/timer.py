"""What jobs are timed with: a runtime, the data type that it makes files of, and a device."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from mobilenas.base.errors import BadInput
from mobilenas.base.files import write_atomic
from mobilenas.latency.graphs import Job
from mobilenas.latency.host import processor
from mobilenas.runtimes.base import Dtype, Feed, Form, Runtime
from mobilenas.runtimes.command import TIME_LIMIT, Command, check_template
from mobilenas.runtimes.onnxruntime import OnnxRuntime
from mobilenas.runtimes.registry import make_runtime

RUNTIMES = ("onnxruntime", "executorch", "command")
DTYPES = ("fp32", "int8")


@dataclass(frozen=True)
class Timer:
    """Makes the files of jobs, as they are shipped, and times them."""

    runtime: Runtime
    dtype: Dtype

    def write(self, job: Job, path: Path) -> None:
        """Write the file of a job. The ranges of int8 are those of the random input: they set the
        scales, which no latency depends on.
        """
        module, example = job.make(), job.example
        feed = Feed(example.numpy()) if self.dtype == "int8" else None
        files = self.runtime.convert(module, example, Form(batch=len(example)), feed).files
        (content,) = files.values()
        write_atomic(path, lambda file: file.write(content))

    def time(self, job: Job, path: Path, seconds: float) -> list[float]:
        """Milliseconds of each run of the file of a job, see `Runtime.time`."""
        return self.runtime.time(path, job.example.numpy(), seconds)


class Device(Protocol):
    """Where jobs are timed. runtime: its name; version: that of the runtime there."""

    runtime: str
    version: str
    processor: str

    def prepare(self, job: Job) -> None:
        """Write the file of a job, unless it is there."""

    def time(self, job: Job, seconds: float) -> Sequence[float]:
        """Milliseconds of each run of a job whose file is there, see `Runtime.time`."""

    def discard(self, jobs: Sequence[Job]) -> None:
        """Take away the files of jobs that need no more timing."""


class Host:
    """This host as a device, or whatever a command reaches from it. graphs: folder of the files."""

    def __init__(self, timer: Timer, graphs: Path) -> None:
        self.runtime, self.version = timer.runtime.name, timer.runtime.version
        self.processor = processor()
        self._timer = timer
        self._graphs = graphs

    def prepare(self, job: Job) -> None:
        """As `Device` says."""
        path = self._path(job)
        if not path.exists():
            self._graphs.mkdir(parents=True, exist_ok=True)
            self._timer.write(job, path)

    def time(self, job: Job, seconds: float) -> list[float]:
        """As `Device` says."""
        return self._timer.time(job, self._path(job), seconds)

    def discard(self, jobs: Sequence[Job]) -> None:
        """As `Device` says."""
        for job in jobs:
            self._path(job).unlink(missing_ok=True)

    def _path(self, job: Job) -> Path:
        name = hashlib.sha256(job.key.encode()).hexdigest()[:16]
        return self._graphs / f"{name}{self._timer.runtime.suffix}"


def make_timer(
    runtime: str,
    *,
    dtype: str,
    threads: int,
    command: str | None,
    time_limit: float = TIME_LIMIT,
) -> Timer:
    """The timer of a runtime by its name. command: template of the `command` runtime, one call of
    which may take time_limit seconds.

    Raises BadInput for an unknown name, a data type it has not, or a package that is missing.
    """
    if runtime not in RUNTIMES:
        raise BadInput(f"no runtime {runtime!r}; known are {', '.join(RUNTIMES)}")
    if dtype not in DTYPES:
        raise BadInput(f"no data type {dtype!r}; known are {', '.join(DTYPES)}")
    check_command(runtime, command)
    return Timer(_runtime(runtime, threads, command, time_limit), cast(Dtype, dtype))


def check_command(runtime: str, command: str | None) -> None:
    """Raise BadInput unless there is a command where it must be, and it names a file."""
    if (command is not None) != (runtime == "command"):
        raise BadInput(
            f"runtime {runtime}: only `command` takes a --command TEMPLATE, and needs it"
        )
    if command is not None:
        check_template(command)


def _runtime(name: str, threads: int, command: str | None, time_limit: float) -> Runtime:
    if command is not None:
        return Command(command, threads, time_limit)
    if name == "onnxruntime":
        return OnnxRuntime(threads, quick=True)
    return make_runtime(name, threads)
