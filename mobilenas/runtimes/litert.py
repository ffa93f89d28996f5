"""LiteRT (formerly TensorFlow Lite) on the CPU: .tflite, float32."""

import tempfile
from pathlib import Path

from torch import Tensor, nn

from mobilenas.base.errors import VerificationFailed, one_line
from mobilenas.runtimes.base import (
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
    package_version,
    silence,
)


class LiteRT(Runtime):
    """See `Runtime`."""

    name = "litert"
    suffixes = (".tflite",)
    dtypes: tuple[Dtype, ...] = ("fp32",)
    batches: Batches = "fixed"
    takes_bytes = True

    def __init__(self, threads: int | None = None) -> None:
        self.version = package_version("litert-torch", "pip install litert-torch")
        self._threads = threads

    def convert(
        self, module: nn.Module, example: Tensor, form: Form, calibration: Feed | None
    ) -> Converted:
        """One .tflite file."""
        with silence(), tempfile.TemporaryDirectory() as folder:
            import litert_torch

            path = Path(folder) / "model.tflite"
            litert_torch.convert(module, (example,)).export(str(path))
            return Converted({self.suffix: path.read_bytes()})

    def load(self, files: Files) -> Run:
        """An interpreter, which delegates to XNNPACK."""
        try:
            with silence():
                from ai_edge_litert.interpreter import Interpreter

                interpreter = Interpreter(
                    model_content=files[self.suffix], num_threads=self._threads
                )
                interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise VerificationFailed(f"LiteRT does not load it: {one_line(error)}") from error
        given, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]

        def run(inputs: Inputs) -> Floats:
            interpreter.set_tensor(given["index"], inputs)
            interpreter.invoke()
            logits: Floats = interpreter.get_tensor(result["index"])
            return logits

        return run
