"""ONNX Runtime on the CPU: .onnx, fp32 and int8.

torch is imported to convert only, so that the memory of a file is measured without it.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import onnxruntime as ort

from mobilenas.runtimes.base import (
    INPUT,
    OUTPUT,
    Batches,
    Converted,
    Dtype,
    Feed,
    Files,
    Floats,
    Form,
    Inputs,
    Run,
    Runtime,
)
from mobilenas.runtimes.onnx_session import make_session

if TYPE_CHECKING:
    from torch import Tensor, nn


class OnnxRuntime(Runtime):
    """int8: static QDQ, the best of several schemes (`quantize_onnx`).

    quick: write files by `to_onnx_quickly`, which are for timing: they have the example's batch
    size, which must be that of the form.
    """

    name = "onnxruntime"
    version: str = ort.__version__
    suffixes = (".onnx",)
    dtypes: tuple[Dtype, ...] = ("fp32", "int8")
    batches: Batches = "any"
    takes_bytes = True

    def __init__(self, threads: int | None = None, *, quick: bool = False) -> None:
        self._threads = threads
        self._quick = quick

    def convert(
        self, module: nn.Module, example: Tensor, form: Form, calibration: Feed | None
    ) -> Converted:
        """One .onnx file."""
        from mobilenas.runtimes.onnx import to_onnx, to_onnx_quickly, to_opset, with_batch
        from mobilenas.runtimes.quantize import Scheme, observe, quantize, quantize_onnx

        make = to_onnx_quickly if self._quick else to_onnx
        model = to_opset(make(module, example), form.opset)
        if calibration is None:
            return Converted({self.suffix: with_batch(model, form.batch)})
        ranges, choice = calibration.ranges, calibration.choice
        if choice is None:
            scheme = Scheme("minmax")
            quantized = quantize(model, observe(model, ranges), scheme)
            return Converted({self.suffix: with_batch(quantized, form.batch)}, scheme.words)
        found = quantize_onnx(model, ranges, choice.inputs, choice.labels)
        return Converted(
            {self.suffix: with_batch(found.model, form.batch)},
            found.scheme.words,
            tuple(asdict(trial) | {"scheme": trial.scheme.words} for trial in found.trials),
            plain=model,
        )

    def load(self, files: Files) -> Run:
        """A session of ONNX Runtime on the CPU."""
        session = make_session(files[self.suffix], self._threads)

        def run(inputs: Inputs) -> Floats:
            result: Floats = session.run([OUTPUT], {INPUT: inputs})[0]
            return result

        return run
