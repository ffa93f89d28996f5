"""The runtimes by their names, and which form of an export each of them has.

onnxruntime is here; the others have a module each, which needs its packages when it is used.
"""

from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module

from torch import Tensor, nn

from mobilenas.base.errors import BadInput
from mobilenas.export.form import (
    INPUT,
    OPSET,
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
from mobilenas.export.onnx import OPSETS, make_session, to_onnx, to_opset, with_batch
from mobilenas.export.quantize import Scheme, quantize_onnx


class OnnxRuntime:
    """Implements `Runtime`. int8: static QDQ, the best of several schemes (`quantize_onnx`)."""

    name = "onnxruntime"
    suffix = ".onnx"
    dtypes: tuple[Dtype, ...] = ("fp32", "int8")
    batches: Batches = "any"
    takes_bytes = True

    def convert(
        self, module: nn.Module, example: Tensor, form: Form, calibration: Feed | None
    ) -> Converted:
        """One .onnx file."""
        model = to_opset(to_onnx(module, example), form.opset)
        if calibration is None:
            return Converted({self.suffix: with_batch(model, form.batch)})
        found = quantize_onnx(model, calibration.ranges, calibration.choice, calibration.labels)
        return Converted(
            {self.suffix: with_batch(found.model, form.batch)},
            _words(found.scheme),
            tuple(asdict(trial) | {"scheme": _words(trial.scheme)} for trial in found.trials),
            plain=model,
        )

    def load(self, files: Files) -> Run:
        """A session of ONNX Runtime on the CPU."""
        session = make_session(files[self.suffix])

        def run(inputs: Inputs) -> Floats:
            result: Floats = session.run([OUTPUT], {INPUT: inputs})[0]
            return result

        return run


def _words(scheme: Scheme) -> str:
    return f"static, weights by channel, ranges by {scheme.method}"


def _adapter(module: str, name: str) -> Callable[[], Runtime]:
    def make() -> Runtime:
        runtime: Runtime = getattr(import_module(f"mobilenas.export.{module}"), name)()
        return runtime

    return make


RUNTIMES: dict[str, Callable[[], Runtime]] = {
    "onnxruntime": OnnxRuntime,
    "executorch": _adapter("executorch", "ExecuTorch"),
    "litert": _adapter("litert", "LiteRT"),
    "openvino": _adapter("openvino", "OpenVINO"),
    "ncnn": _adapter("ncnn", "NCNN"),
}
# By the ending of the main file: the runtime, and the endings of all its files.
FILES = {
    ".onnx": ("onnxruntime", (".onnx",)),
    ".pte": ("executorch", (".pte",)),
    ".tflite": ("litert", (".tflite",)),
    ".xml": ("openvino", (".xml", ".bin")),
    ".ncnn.param": ("ncnn", (".ncnn.param", ".ncnn.bin")),
}


def make_runtime(name: str) -> Runtime:
    """The runtime of a name. Raises BadInput for an unknown one and where a package is missing."""
    if name not in RUNTIMES:
        raise BadInput(f"--runtime {name}: choose one of {', '.join(RUNTIMES)}")
    return RUNTIMES[name]()


def make_form(
    runtime: Runtime, *, opset: int | None, batch: str | None, preprocess: bool, int8: bool
) -> Form:
    """The form that was asked for, None for what the runtime has by default.

    batch: a number, or `dynamic`. Raises BadInput naming what the runtime does not have.
    """
    name = runtime.name
    if int8 and "int8" not in runtime.dtypes:
        raise BadInput(f"--int8: {name} has none here; onnxruntime and executorch have")
    if preprocess and not runtime.takes_bytes:
        raise BadInput(f"--preprocess: {name} has no uint8 inputs")
    if opset is not None and runtime.suffix != ".onnx":
        raise BadInput(f"--opset is of ONNX files; {name} has none")
    if opset is not None and opset not in OPSETS:
        raise BadInput(f"--opset {opset}: {OPSETS[0]} to {OPSETS[-1]} is wanted")
    return Form(opset or OPSET, _batch(runtime, batch), preprocess)


def _batch(runtime: Runtime, text: str | None) -> int | None:
    if text is None:
        return None if runtime.batches == "any" else 1
    if text == "dynamic":
        if runtime.batches != "any":
            raise BadInput(f"--batch dynamic: {runtime.name} needs a number, 1 by default")
        return None
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise BadInput(f"--batch {text}: `dynamic`, or a number from 1 is wanted")
    if runtime.batches == "one" and int(text) != 1:
        raise BadInput(f"--batch {text}: {runtime.name} runs one image at a time")
    return int(text)
