"""OpenVINO on the CPU: .xml with .bin, float32."""

import tempfile
from pathlib import Path

from torch import Tensor, nn

from mobilenas.base.errors import VerificationFailed, one_line
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
    package_version,
    silence,
)


class OpenVINO(Runtime):
    """See `Runtime`."""

    name = "openvino"
    suffixes = (".xml", ".bin")
    dtypes: tuple[Dtype, ...] = ("fp32",)
    batches: Batches = "any"
    takes_bytes = True

    def __init__(self, threads: int | None = None) -> None:
        self.version = package_version("openvino", "pip install openvino")
        self._threads = threads

    def convert(
        self, module: nn.Module, example: Tensor, form: Form, calibration: Feed | None
    ) -> Converted:
        """The graph (.xml) and its weights (.bin)."""
        import openvino as ov

        with silence(), tempfile.TemporaryDirectory() as folder:
            shape = [form.batch or -1, *example.shape[1:]]
            model = ov.convert_model(module, example_input=example, input=[shape])
            model.inputs[0].set_names({INPUT})
            model.outputs[0].set_names({OUTPUT})
            path = Path(folder) / "model.xml"
            ov.save_model(model, path, compress_to_fp16=False)
            return Converted({end: path.with_suffix(end).read_bytes() for end in self.suffixes})

    def load(self, files: Files) -> Run:
        """The model compiled for the CPU, in float32 also where that has something shorter."""
        import openvino as ov

        core, options = ov.Core(), {"INFERENCE_PRECISION_HINT": "f32"}
        if self._threads is not None:
            options["INFERENCE_NUM_THREADS"] = str(self._threads)
        try:
            model = core.compile_model(
                core.read_model(files[".xml"], files[".bin"]), "CPU", options
            )
        except RuntimeError as error:
            raise VerificationFailed(f"OpenVINO does not load it: {one_line(error)}") from error

        def run(inputs: Inputs) -> Floats:
            logits: Floats = model([inputs])[0]
            return logits.copy()

        return run
