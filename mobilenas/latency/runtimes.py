"""What a latency is measured with: a runtime makes a file of a module, and times that file.

onnxruntime is here; `executorch.py` and `command.py` have the others.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime as ort
import torch
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

from mobilenas.base.errors import BadInput
from mobilenas.export.form import OPSET, silence
from mobilenas.latency.exported import open_exported

RUNTIMES = ("onnxruntime", "executorch", "command")
DTYPES = ("fp32", "int8")
MIN_RUNS = 5
WARMUP_RUNS = 2


class Runtime(Protocol):
    """The interface that measuring needs.

    name, version: as they stand in a table. suffix: of the files that `prepare` writes.
    """

    name: str
    version: str
    suffix: str

    def prepare(self, module: nn.Module, example: Tensor, path: Path) -> None:
        """Write the file of a module in eval mode, for inputs of the shape of `example`."""

    def time(self, path: Path, seconds: float) -> list[float]:
        """Milliseconds of each run of a file, warm, for about `seconds` and at least MIN_RUNS."""


def make_runtime(name: str, *, dtype: str, threads: int, command: str | None) -> Runtime:
    """The runtime of a name. command: template of the `command` runtime, None for the others.

    Raises BadInput for an unknown name, a data type it has not, or a package that is missing.
    """
    if name not in RUNTIMES:
        raise BadInput(f"no runtime {name!r}; known are {', '.join(RUNTIMES)}")
    if dtype not in DTYPES:
        raise BadInput(f"no data type {dtype!r}; known are {', '.join(DTYPES)}")
    if (command is not None) != (name == "command"):
        raise BadInput(f"runtime {name}: only `command` takes a --command TEMPLATE, and needs it")
    if name == "executorch":
        from mobilenas.latency.executorch import Executorch

        return Executorch(dtype, threads)
    if command is not None:
        from mobilenas.latency.command import Command

        return Command(command, dtype, threads)
    return OnnxRuntime(dtype, threads)


class OnnxRuntime:
    """ONNX Runtime on the CPU of this host. int8: static QDQ, a scale for each channel."""

    name = "onnxruntime"
    version: str = ort.__version__
    suffix = ".onnx"

    def __init__(self, dtype: str, threads: int) -> None:
        self._dtype = dtype
        self._threads = threads

    def prepare(self, module: nn.Module, example: Tensor, path: Path) -> None:
        """Write the ONNX file of a module, quantised for int8."""
        write_onnx(module, example, path, self._dtype)

    def time(self, path: Path, seconds: float) -> list[float]:
        """Milliseconds of each run of an ONNX file."""
        return timed(open_exported(path, self._threads).run, seconds)


def write_onnx(module: nn.Module, example: Tensor, path: Path, dtype: str) -> None:
    """Write a module as ONNX with the shapes of `example`.

    The exporter is torch's older one, ten to thirty times as fast as the one of `export_network`;
    the operators that are left are the same (tests/latency).
    """
    with silence():
        torch.onnx.export(
            module,
            (example,),
            str(path),
            input_names=["image"],
            opset_version=OPSET,
            dynamo=False,
            external_data=False,
        )
        if dtype == "int8":
            # Equal biases, as fresh networks have, are shared through Identity nodes; a convolution
            # whose bias is no initializer would stay in float.
            quant_pre_process(str(path), str(path), skip_symbolic_shape=True)
            quantize_static(
                str(path),
                str(path),
                _OneInput(example),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )


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


class _OneInput(CalibrationDataReader):
    """One random input: the ranges it gives set the scales, which no latency depends on."""

    def __init__(self, example: Tensor) -> None:
        self._inputs = iter([{"image": example.numpy()}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._inputs, None)
