"""ncnn on the CPU through pnnx: .param with .bin, weights in float16."""

import tempfile
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from mobilenas.base.errors import VerificationFailed
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


class NCNN(Runtime):
    """The blobs are called in0 and out0."""

    name = "ncnn"
    # As pnnx calls them, so that the .bin is not that of OpenVINO.
    suffixes = (".ncnn.param", ".ncnn.bin")
    dtypes: tuple[Dtype, ...] = ("fp16",)
    batches: Batches = "one"
    takes_bytes = False  # `Mat::from_pixels` and `substract_mean_normalize` are its way

    def __init__(self, threads: int | None = None) -> None:
        for package in ("pnnx", "ncnn"):
            self.version = package_version(package, f"pip install {package}")
        self._threads = threads

    def convert(
        self, module: nn.Module, example: Tensor, form: Form, calibration: Feed | None
    ) -> Converted:
        """The graph (.param) and its weights (.bin)."""
        import pnnx

        with silence(), tempfile.TemporaryDirectory() as folder:
            pnnx.export(module, f"{folder}/model.pt", example)
            found = {end: Path(folder, f"model{end}").read_bytes() for end in self.suffixes}
            return Converted(found)

    def load(self, files: Files) -> Run:
        """A network of ncnn."""
        import ncnn

        net = ncnn.Net()
        if self._threads is not None:
            net.opt.num_threads = self._threads
        with tempfile.TemporaryDirectory() as folder:
            for end, load in zip(self.suffixes, (net.load_param, net.load_model), strict=True):
                path = Path(folder) / f"model{end}"
                path.write_bytes(files[end])
                if load(str(path)):
                    raise VerificationFailed(f"ncnn does not load its {end} file")

        def run(inputs: Inputs) -> Floats:
            with net.create_extractor() as extractor:
                extractor.input("in0", ncnn.Mat(inputs[0]))
                return np.array(extractor.extract("out0")[1], np.float32)[None]

        return run
