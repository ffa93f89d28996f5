"""What jobs are timed with: a runtime, and the data type that it makes files of."""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from mobilenas.base.errors import BadInput
from mobilenas.base.files import write_atomic
from mobilenas.latency.graphs import Job
from mobilenas.runtimes.base import Dtype, Feed, Form, Runtime
from mobilenas.runtimes.command import Command
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


def make_timer(runtime: str, *, dtype: str, threads: int, command: str | None) -> Timer:
    """The timer of a runtime by its name. command: template of the `command` runtime.

    Raises BadInput for an unknown name, a data type it has not, or a package that is missing.
    """
    if runtime not in RUNTIMES:
        raise BadInput(f"no runtime {runtime!r}; known are {', '.join(RUNTIMES)}")
    if dtype not in DTYPES:
        raise BadInput(f"no data type {dtype!r}; known are {', '.join(DTYPES)}")
    if (command is not None) != (runtime == "command"):
        raise BadInput(
            f"runtime {runtime}: only `command` takes a --command TEMPLATE, and needs it"
        )
    return Timer(_runtime(runtime, threads, command), cast(Dtype, dtype))


def _runtime(name: str, threads: int, command: str | None) -> Runtime:
    if command is not None:
        return Command(command, threads)
    if name == "onnxruntime":
        return OnnxRuntime(threads, quick=True)
    return make_runtime(name, threads)
