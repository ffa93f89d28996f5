"""What a runtime is: it writes files of a torch module, loads them to a callable, and times them.

torch is imported for its types alone, so that the memory of an ONNX file is measured without it.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from mobilenas.base.errors import BadInput
from mobilenas.base.plain import read_bytes

if TYPE_CHECKING:
    from torch import Tensor, nn

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.integer[Any]]
Inputs = npt.NDArray[Any]  # what a file is fed with: float32 (N, 3, R, R) or uint8 (N, R, R, 3)
Run = Callable[[Inputs], Floats]  # a batch of inputs to logits (batch, classes)
Files = dict[str, bytes]  # contents by the endings of the files' names, the main file first
Dtype = Literal["fp32", "fp16", "int8"]
Batches = Literal["any", "fixed", "one"]

INPUT, OUTPUT = "image", "logits"
# What the exporter itself writes; other opsets are converted from it.
OPSET = 18
MIN_RUNS = 5
WARMUP_RUNS = 2


@dataclass(frozen=True)
class Form:
    """How a network is exported.

    opset: of an ONNX file. batch: images that are run at a time, None for any number. preprocess:
    the file takes the bytes of RGB images, (batch, R, R, 3), and normalises them itself; else it
    takes normalised float32 (batch, 3, R, R).
    """

    opset: int = OPSET
    batch: int | None = None
    preprocess: bool = False

    @property
    def layout(self) -> str:
        """The input as the metadata of a file say it."""
        return "NHWC, RGB, uint8" if self.preprocess else "NCHW, RGB, float32"


@dataclass(frozen=True)
class Choice:
    """Inputs, and their labels, by which one of several schemes of quantisation is chosen."""

    inputs: Inputs
    labels: Labels


@dataclass(frozen=True)
class Feed:
    """What int8 needs, as the file takes it.

    ranges: inputs that give the ranges of the activations. choice: None to try one scheme alone.
    """

    ranges: Inputs
    choice: Choice | None = None


@dataclass(frozen=True)
class Converted:
    """The files of a runtime.

    For int8 how they were quantised, and what else was tried. plain: the float32 ONNX model behind
    an int8 one, with a free batch size, which its weights are proved by.
    """

    files: Files
    scheme: str | None = None
    trials: tuple[dict[str, Any], ...] = ()
    plain: bytes | None = None


class Runtime(Protocol):
    """One way to deploy a network.

    name, version: as they stand in a latency table. suffixes: the endings of its files, the main
    file's first; those of a package, which is a folder, go through it. dtypes: of the weights and
    activations, without int8 the first one. batches: `any` number of images at a time, a `fixed`
    one of one's choice, or `one` only. takes_bytes: whether there can be uint8 inputs. stand_in:
    what runs its files in its place on this host, None where it runs them itself.
    """

    name: str
    version: str
    suffixes: tuple[str, ...]
    dtypes: tuple[Dtype, ...]
    batches: Batches
    takes_bytes: bool
    stand_in: str | None = None

    def __init__(self, threads: int | None = None) -> None:
        """threads: to run with, None for torch's number. Raises BadInput for a missing package."""

    @property
    def suffix(self) -> str:
        """The ending of the main file, or of the package."""
        return main_suffix(self.suffixes)

    def convert(
        self, module: nn.Module, example: Tensor, form: Form, calibration: Feed | None
    ) -> Converted:
        """The files of a module in eval mode with batch norms folded; int8 with a calibration."""

    def load(self, files: Files) -> Run:
        """Make files ready to run. Raises VerificationFailed where the runtime refuses them."""

    def time(self, path: Path, example: Inputs, seconds: float) -> list[float]:
        """Milliseconds of each run of a file, loaded afresh and warm, for about `seconds` and at
        least MIN_RUNS.

        path: of the main file. example: its inputs, of the shape that it was made for.
        """
        run = self.load(read_files(path, self.suffixes))
        return timed(lambda: run(example), seconds)


def timed(run: Callable[[], object], seconds: float) -> list[float]:
    """Milliseconds of each call, after a warm-up, for about `seconds` and at least MIN_RUNS."""
    for _ in range(WARMUP_RUNS):
        run()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < MIN_RUNS or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - start))
    return times


def batches_of(inputs: Inputs, size: int) -> Iterator[Inputs]:
    """Batches of exactly `size` inputs; the last is filled up with its own, from the first on."""
    for start in range(0, len(inputs), size):
        batch = inputs[start : start + size]
        yield np.resize(batch, (size, *batch.shape[1:]))


def run_all(run: Run, inputs: Inputs, size: int, *, fixed: bool) -> Floats:
    """Logits (N, classes) of inputs in batches of `size`; fixed: of no other, see `batches_of`."""
    if fixed:
        return np.concatenate([run(batch) for batch in batches_of(inputs, size)])[: len(inputs)]
    return np.concatenate([run(inputs[i : i + size]) for i in range(0, len(inputs), size)])


def read_files(path: Path, suffixes: tuple[str, ...]) -> Files:
    """The files of a runtime by the path of the main one. Raises BadInput for one that is none."""
    return {end: read_bytes(file) for end, file in files_of(path, suffixes).items()}


def files_of(path: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """The paths of the files of a runtime, by their endings. path: of the main one."""
    return {end: beside(path, main_suffix(suffixes), end) for end in suffixes}


def main_suffix(suffixes: tuple[str, ...]) -> str:
    """The ending of what a user names: the main file, or the package that it is in."""
    return suffixes[0].partition("/")[0]


def beside(path: Path, suffix: str, ending: str) -> Path:
    """The file with another ending that belongs to the main file with this suffix."""
    return path.parent / (path.name.removesuffix(suffix) + ending)


def package_version(package: str, how: str) -> str:
    """Version of an installed package. Raises BadInput saying how to install it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise BadInput(f"{package} is not installed: {how} brings it") from None


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep the prints, warnings and logs of a converter away; what goes wrong is raised anyway.

    Those of C++ code and of child processes too, which Python does not see.
    """
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            _nowhere(1),
            _nowhere(2),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            yield
    finally:
        logging.disable(disabled)


@contextlib.contextmanager
def _nowhere(descriptor: int) -> Iterator[None]:
    kept = os.dup(descriptor)
    try:
        with Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), descriptor)
        yield
    finally:
        os.dup2(kept, descriptor)
        os.close(kept)
