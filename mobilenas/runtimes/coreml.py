"""Core ML: .mlpackage, an ML program in float16, for iOS 15 and macOS 12 up.

Core ML runs on Apple's systems only. Elsewhere its files are written all the same, and what runs
them is torch, by their own graph and weights (`mil.py`).
"""

import logging
import sys
import tempfile
from pathlib import Path

import torch
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

log = logging.getLogger(__name__)

_PACKAGE = "model.mlpackage"


class CoreML(Runtime):
    """A package is a folder; Xcode and Core ML take it as one file."""

    name = "coreml"
    suffixes = (
        ".mlpackage/Manifest.json",
        ".mlpackage/Data/com.apple.CoreML/model.mlmodel",
        ".mlpackage/Data/com.apple.CoreML/weights/weight.bin",
    )
    dtypes: tuple[Dtype, ...] = ("fp16",)
    batches: Batches = "fixed"
    takes_bytes = False  # an image is a type of its own in Core ML

    def __init__(self, threads: int | None = None) -> None:
        self.version = package_version("coremltools", "pip install '.[coreml]' in the checkout")
        self.stand_in = None if sys.platform == "darwin" else "torch, operator by operator"

    def convert(
        self, module: nn.Module, example: Tensor, form: Form, calibration: Feed | None
    ) -> Converted:
        """The files of one package."""
        with silence(), tempfile.TemporaryDirectory() as folder:
            import coremltools as ct

            # Decomposed no further than Core ML needs: it has a ReLU6 of its own.
            exported = torch.export.export(module, (example,)).run_decompositions({})
            model = ct.convert(
                exported,
                inputs=[ct.TensorType(INPUT, example.shape)],
                outputs=[ct.TensorType(OUTPUT)],
                minimum_deployment_target=ct.target.iOS15,
                skip_model_load=True,
            )
            model.save(f"{folder}/{_PACKAGE}")
            return Converted({end: _inside(folder, end).read_bytes() for end in self.suffixes})

    def load(self, files: Files) -> Run:
        """A model of Core ML; off a Mac its operators in torch, which is said."""
        folder = tempfile.TemporaryDirectory()
        for end, content in files.items():
            _inside(folder.name, end).parent.mkdir(parents=True, exist_ok=True)
            _inside(folder.name, end).write_bytes(content)
        package = Path(folder.name, _PACKAGE)
        if self.stand_in is not None:
            log.warning("Core ML runs on a Mac only: its file is run by %s", self.stand_in)
        try:
            with silence():
                if self.stand_in is None:
                    import coremltools as ct

                    model = ct.models.MLModel(str(package))
                else:
                    from mobilenas.runtimes.mil import load_program

                    return load_program(package)
        except VerificationFailed:
            raise
        except Exception as error:  # coremltools raises errors of several classes
            raise VerificationFailed(f"Core ML does not load it: {one_line(error)}") from error

        def run(inputs: Inputs) -> Floats:
            assert folder  # which the model lies in, and which goes with this function
            logits: Floats = model.predict({INPUT: inputs})[OUTPUT]
            return logits

        return run


def _inside(folder: str, ending: str) -> Path:
    return Path(folder) / (_PACKAGE.removesuffix(".mlpackage") + ending)
