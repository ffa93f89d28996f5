"""What an export is in all runtimes: its form, the module behind it, how it is fed and run."""

import contextlib
import copy
import importlib.metadata
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mobilenas.base.errors import BadInput
from mobilenas.data import Images
from mobilenas.nn import Network, fold_batch_norm
from mobilenas.nn.saved import Channels, NetworkInfo

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.integer[Any]]
Pixels = npt.NDArray[np.uint8]  # (N, R, R, 3), RGB
Inputs = npt.NDArray[Any]  # Floats or Pixels, what a file is fed with: see `fed`
Run = Callable[[Inputs], Floats]  # a batch of inputs to logits (batch, classes)
Files = dict[str, bytes]  # contents by the endings of the files' names, the main file first
Dtype = Literal["fp32", "fp16", "int8"]
Batches = Literal["any", "fixed", "one"]

INPUT, OUTPUT = "image", "logits"
# What the exporter itself writes; other opsets are converted from it.
OPSET = 18


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
class Calibration:
    """What an int8 export needs: images as the network is evaluated on them.

    ranges: training images (N, R, R, 3), which the ranges of the activations are taken from.
    choice: others, by which one of several schemes is chosen.
    """

    ranges: Pixels
    choice: Images


@dataclass(frozen=True)
class Feed:
    """A `Calibration` as the file takes it. labels: of the images of `choice`."""

    ranges: Inputs
    choice: Inputs
    labels: Labels


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
    """One way to deploy: writes files of a torch module, and runs them on this machine's CPU.

    suffix: the ending of the main file. dtypes: of the weights and activations, without int8 the
    first one. batches: `any` number of images at a time, a `fixed` one of one's choice, or `one`
    only. takes_bytes: whether there can be uint8 inputs. The constructor raises BadInput where a
    package is missing.
    """

    name: str
    suffix: str
    dtypes: tuple[Dtype, ...]
    batches: Batches
    takes_bytes: bool

    def convert(
        self, module: nn.Module, example: Tensor, form: Form, calibration: Feed | None
    ) -> Converted:
        """The files of what `deployable` made; int8 with a calibration."""

    def load(self, files: Files) -> Run:
        """Make files ready to run. Raises VerificationFailed where the runtime refuses them."""


class Preprocessed(nn.Module):
    """A network behind its normalisation: uint8 images (N, R, R, 3) to logits."""

    centre: Tensor
    spread: Tensor

    def __init__(self, network: nn.Module, mean: Channels, std: Channels) -> None:
        super().__init__()
        self.network = network
        for name, values in (("centre", mean), ("spread", std)):
            self.register_buffer(name, 255 * torch.tensor(values).view(3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        pixels = image.permute(0, 3, 1, 2).float()
        logits: Tensor = self.network((pixels - self.centre) / self.spread)
        return logits


def deployable(network: Network, info: NetworkInfo, form: Form) -> tuple[nn.Module, Tensor]:
    """A copy on the CPU as it is deployed, and zeros in the shape of its input.

    Batch norms are folded, preprocessing is as `form` has it.
    """
    folded = fold_batch_norm(copy.deepcopy(network).cpu().float()).requires_grad_(False)
    for module in folded.modules():
        if hasattr(module, "inplace"):
            # The graph is the same either way, but in place its export takes twice as long.
            module.inplace = False  # type: ignore[assignment]
    size, channels = network.space.resolution, network.space.spec.in_channels
    image = torch.zeros(form.batch or 1, channels, size, size)
    if form.preprocess:
        whole = Preprocessed(folded, info.mean, info.std).eval()
        return whole, image.permute(0, 2, 3, 1).to(torch.uint8).contiguous()
    return folded, image


def fed(images: Pixels, info: NetworkInfo, preprocess: bool) -> Inputs:
    """Images as a file takes them: as they are, or normalised."""
    return images if preprocess else normalise(images, info.mean, info.std)


def normalise(images: Pixels, mean: Channels, std: Channels) -> Floats:
    """uint8 (N, H, W, 3) to float32 (N, 3, H, W), zero mean and unit deviation per channel."""
    centre, spread = np.array(mean, dtype=np.float32), np.array(std, dtype=np.float32)
    pixels = images.astype(np.float32) / 255
    return np.ascontiguousarray(((pixels - centre) / spread).transpose(0, 3, 1, 2))


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


def beside(path: Path, suffix: str, ending: str) -> Path:
    """The file with another ending that belongs to the main file with this suffix."""
    return path.with_name(path.name.removesuffix(suffix) + ending)


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
