"""Any device that a shell command reaches: a phone over adb, a board over ssh.

docs/latency_devices.md has recipes.
"""

import contextlib
import os
import shlex
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import IO

from torch import Tensor, nn

from mobilenas.base.errors import BadInput
from mobilenas.cost.latency import LONGEST
from mobilenas.runtimes.base import (
    Batches,
    Converted,
    Dtype,
    Feed,
    Files,
    Form,
    Inputs,
    Run,
    Runtime,
)
from mobilenas.runtimes.executorch import ExecuTorch
from mobilenas.runtimes.onnxruntime import OnnxRuntime

TIME_LIMIT = 120.0  # seconds of one call
SHOWN = 80  # characters of what a command printed that go into a message


class Command(Runtime):
    """Times files with a shell command that prints milliseconds, one number a run.

    template: the command; `{model}` stands for the path of an ONNX file or `{pte}` for that of an
    ExecuTorch file, `{threads}` for the number of threads. time_limit: seconds that one call may
    take. Raises BadInput for a template without a file, or with both.
    """

    name = "command"
    version = "command"
    dtypes: tuple[Dtype, ...] = ("fp32", "int8")
    batches: Batches = "fixed"
    takes_bytes = False

    def __init__(self, template: str, threads: int, time_limit: float = TIME_LIMIT) -> None:
        check_template(template)
        self._template = template
        self._threads = threads
        self._time_limit = time_limit
        self._writer: Runtime = ExecuTorch() if "{pte}" in template else OnnxRuntime(quick=True)
        self.suffixes = self._writer.suffixes

    def convert(
        self, module: nn.Module, example: Tensor, form: Form, calibration: Feed | None
    ) -> Converted:
        """The ONNX or ExecuTorch file of a module."""
        return self._writer.convert(module, example, form, calibration)

    def load(self, files: Files) -> Run:
        """As on this host, to see what a file computes."""
        return self._writer.load(files)

    def time(self, path: Path, example: Inputs, seconds: float) -> list[float]:
        """The milliseconds that one call of the command prints; it is the command's to say how many
        runs it makes on what input, whatever `seconds` is.

        Raises BadInput when the command fails, takes too long or prints anything but times.
        """
        file = shlex.quote(str(path))
        # Not str.format: the braces of an awk program are to stay.
        command = self._template.replace("{threads}", str(self._threads))
        return _milliseconds(
            _run(command.replace("{model}", file).replace("{pte}", file), self._time_limit)
        )


def check_template(template: str) -> None:
    """Raise BadInput for a template without a file, or with both."""
    if ("{model}" in template) == ("{pte}" in template):
        raise BadInput(
            f"--command {_shown(template)} needs one of {{model}} (the path of an ONNX file)"
            " and {pte} (of an ExecuTorch file)"
        )


def _run(command: str, time_limit: float) -> str:
    """What a command prints. Raises BadInput for an exit code other than 0 and past the limit."""
    # Files, not pipes: a server that the command leaves behind (adb's) would keep a pipe open.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            command,
            shell=True,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        try:
            code = process.wait(time_limit)
        except subprocess.TimeoutExpired:
            raise BadInput(
                f"--command took longer than {time_limit:g} s and was killed: {_shown(command)}"
            ) from None
        finally:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if code != 0:
            said = _text(err).strip().splitlines() or ["nothing on stderr"]
            raise BadInput(f"--command ended with exit code {code}: {said[-1]}")
        return _text(out)


def _milliseconds(printed: str) -> list[float]:
    try:
        times = [float(word) for word in printed.split()]
    except ValueError:
        times = []
    if not times or not all(0 < ms <= LONGEST for ms in times):
        raise BadInput(
            f"--command printed {_shown(printed)}: it must print milliseconds alone, a number"
            f" above 0 and at most {LONGEST:,} for each run"
        )
    return times


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _shown(text: str) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= SHOWN else line[: SHOWN - 3] + "...")
