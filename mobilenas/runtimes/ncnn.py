"""ncnn on the CPU through pnnx: .param with .bin, weights in float16."""

import tempfile
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from mobilenas.base.errors import VerificationFailed
from mobilenas.export.form import (
    Batches,
    Converted,
    Dtype,
    Feed,
    Files,
    Floats,
    Form,
    Inputs,
    Run,
    package_version,
    silence,
)


class NCNN:
    """Implements `Runtime`. The blobs are called in0 and out0."""

    name = "ncnn"
    suffix = ".ncnn.param"  # as pnnx calls it, so that the .bin is not that of OpenVINO
    dtypes: tuple[Dtype, ...] = ("fp16",)
    batches: Batches = "one"
    takes_bytes = False  # `Mat::from_pixels` and `substract_mean_normalize` are its way

    def __init__(self) -> None:
        for package in ("pnnx", "ncnn"):
            package_version(package, f"pip install {package}")

    def convert(
        self, module: nn.Module, example: Tensor, form: Form, calibration: Feed | None
    ) -> Converted:
        """The graph (.param) and its weights (.bin)."""
        import pnnx

        with silence(), tempfile.TemporaryDirectory() as folder:
            pnnx.export(module, f"{folder}/model.pt", example)
            ends = (".ncnn.param", ".ncnn.bin")
            return Converted({end: Path(folder, f"model{end}").read_bytes() for end in ends})

    def load(self, files: Files) -> Run:
        """A network of ncnn."""
        import ncnn

        net = ncnn.Net()
        with tempfile.TemporaryDirectory() as folder:
            for end, load in ((".ncnn.param", net.load_param), (".ncnn.bin", net.load_model)):
                path = Path(folder) / f"model{end}"
                path.write_bytes(files[end])
                if load(str(path)):
                    raise VerificationFailed(f"ncnn does not load its {end} file")

        def run(inputs: Inputs) -> Floats:
            with net.create_extractor() as extractor:
                extractor.input("in0", ncnn.Mat(inputs[0]))
                return np.array(extractor.extract("out0")[1], np.float32)[None]

        return run
