"""The form that a user asks for, if the runtime has it."""

from mobilenas.base.errors import BadInput, shortened
from mobilenas.runtimes.base import OPSET, Form, Runtime
from mobilenas.runtimes.onnx import OPSETS

LARGEST_BATCH = 4096  # whose images of 224 px take 2.5 GB


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
        raise BadInput(f"--opset {opset}: must be {OPSETS[0]} to {OPSETS[-1]}")
    return Form(opset or OPSET, _batch(runtime, batch), preprocess)


def _batch(runtime: Runtime, text: str | None) -> int | None:
    if text is None:
        return None if runtime.batches == "any" else 1
    if text == "dynamic":
        if runtime.batches != "any":
            raise BadInput(f"--batch dynamic: {runtime.name} needs a number, 1 by default")
        return None
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
    if not 1 <= number <= LARGEST_BATCH:
        raise BadInput(
            f"--batch {shortened(text)}: must be `dynamic` or a number from 1 to {LARGEST_BATCH}"
        )
    if runtime.batches == "one" and number != 1:
        raise BadInput(f"--batch {text}: {runtime.name} runs one image at a time")
    return number
