"""Export of a network to one self-contained, verified ONNX file."""

import contextlib
import copy
import io
import json
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import nn

import mobilenas
from mobilenas.cost import CostModel
from mobilenas.data.pixels import short_side
from mobilenas.errors import BadInput
from mobilenas.export.verify import INPUT, OUTPUT, Floats, Labels, Verification, verify_onnx
from mobilenas.files import write_atomic
from mobilenas.nn import Network, fold_batch_norm
from mobilenas.nn.saved import Channels, NetworkInfo, own_space

# What the exporter itself writes: a newer one would need a conversion, an older one is not offered.
OPSET = 18
MIN_IMAGES = 8  # so that the largest batch of the verification is a full one


@dataclass(frozen=True)
class Report:
    """What was written and how it was proved. metadata: as it stands in the file, all strings."""

    path: Path
    size_bytes: int
    opset: int
    metadata: dict[str, str]
    verification: Verification

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return {**asdict(self), "path": str(self.path)}


def export_onnx(
    network: Network,
    info: NetworkInfo,
    path: Path,
    images: npt.NDArray[np.uint8],
    labels: Labels | None,
) -> Report:
    """Write `network` to `path` as ONNX, after proof that the file computes the same.

    Batch norms are folded into the convolutions. The model takes `image`, float32 (batch, 3, R, R)
    with any batch size and R the resolution of the space, and gives `logits`, (batch, classes). The
    file carries what a consumer needs to know (`metadata_of`), all of `info` included. The same
    network and arguments give the same bytes.

    images: at least 8 real images (N, R, R, 3), RGB, resized and cropped as `info` has it, for the
    verification; labels (N,): their classes.

    Raises BadInput when an argument does not fit the network or `path` cannot be written, and
    VerificationFailed when the model is not the network. Nothing is written then, and a file that
    was there stays.
    """
    check_target(path)
    _check_arguments(network, images, labels, info.classes)
    metadata = metadata_of(network, info)
    model = to_onnx(network, metadata)
    inputs = normalise(images, info.mean, info.std)
    verification = verify_onnx(model, network, inputs, labels)
    try:
        write_atomic(path, lambda file: file.write(model))
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror}") from error
    return Report(path, len(model), OPSET, metadata, verification)


def normalise(images: npt.NDArray[np.uint8], mean: Channels, std: Channels) -> Floats:
    """uint8 (N, H, W, 3) to float32 (N, 3, H, W), zero mean and unit deviation per channel."""
    centre, spread = np.array(mean, dtype=np.float32), np.array(std, dtype=np.float32)
    pixels = images.astype(np.float32) / 255
    return np.ascontiguousarray(((pixels - centre) / spread).transpose(0, 3, 1, 2))


def metadata_of(network: Network, info: NetworkInfo) -> dict[str, str]:
    """The metadata of an exported file, free of time stamps; export/README.md lists the keys."""
    resolution = network.space.resolution
    short = short_side(resolution, info.crop)
    metadata = {
        "mobilenas_version": mobilenas.__version__,
        "space": network.space.name,
        "arch": str(network.arch),
        "flops_multiply_adds": str(CostModel(own_space(network)).flops(network.arch)),
        "input_resolution": str(resolution),
        "input_short_side": str(short),
        "input_layout": "NCHW, RGB, float32",
        "input_resize": f"short side to {short} (bilinear, antialiased), centre crop of "
        f"{resolution} x {resolution}",
        "input_normalisation": json.dumps({"mean": list(info.mean), "std": list(info.std)}),
        "classes": json.dumps(info.classes),
    }
    if info.accuracy is not None:
        metadata["top1_accuracy"] = str(info.accuracy.top1)
        metadata["top1_accuracy_on"] = info.accuracy.images
    return metadata


def to_onnx(network: Network, metadata: dict[str, str]) -> bytes:
    """The ONNX model of a network, batch norms folded, with metadata; not verified."""
    folded = fold_batch_norm(copy.deepcopy(network).cpu().float()).requires_grad_(False)
    for module in folded.modules():
        if hasattr(module, "inplace"):
            # The graph is the same either way, but in place its export takes twice as long.
            module.inplace = False  # type: ignore[assignment]
    size = network.space.resolution
    # Two images: with one, the exporter takes the batch size for a constant.
    example = torch.zeros(2, network.space.spec.in_channels, size, size)
    model = trace(folded, example, [OUTPUT], ({0: torch.export.Dim("batch")},))
    onnx.helper.set_model_props(model, metadata)
    return model.SerializeToString(deterministic=True)


def trace(
    module: nn.Module,
    example: torch.Tensor,
    outputs: list[str],
    dynamic_shapes: tuple[dict[int, Any]] | None = None,
) -> onnx.ModelProto:
    """The ONNX graph of a module of one input, `image`, and these outputs, for the example's shape.

    dynamic_shapes: as torch.onnx.export takes them. The same module gives the same graph.
    """
    with silence():
        program = torch.onnx.export(
            module,
            (example,),
            None,
            input_names=[INPUT],
            output_names=outputs,
            opset_version=OPSET,
            dynamic_shapes=dynamic_shapes,
            dynamo=True,
            external_data=False,
            export_params=True,
            keep_initializers_as_inputs=False,
            optimize=True,
            verify=False,
            report=False,
            profile=False,
            dump_exported_program=False,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _strip(model)
    return model


def _strip(model: onnx.ModelProto) -> None:
    """Take out what the exporter notes for debugging: source paths and lines of this machine."""
    graph = model.graph
    del graph.value_info[:]
    for part in (graph, *graph.input, *graph.output, *graph.initializer, *graph.node):
        del part.metadata_props[:]
        part.doc_string = ""


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep the exporter's prints, warnings and logs away; what goes wrong is raised anyway."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            yield
    finally:
        logging.disable(disabled)


def check_target(path: Path) -> None:
    """Raise BadInput when `path` cannot be written; before the export, which takes a while."""
    if not path.parent.is_dir():
        raise BadInput(f"cannot write {path}: {path.parent} is not a folder")
    if path.is_dir():
        raise BadInput(f"cannot write {path}: it is a folder")
    if not os.access(path.parent, os.W_OK):
        raise BadInput(f"cannot write {path}: {path.parent} is read-only")


def _check_arguments(
    network: Network,
    images: npt.NDArray[np.uint8],
    labels: Labels | None,
    classes: tuple[str, ...],
) -> None:
    size, channels = network.space.resolution, network.space.spec.in_channels
    if images.dtype != np.uint8 or images.shape[1:] != (size, size, channels):
        raise BadInput(
            f"images are {images.dtype} {images.shape}; the network takes uint8 "
            f"(N, {size}, {size}, {channels})"
        )
    if len(images) < MIN_IMAGES:
        raise BadInput(f"{len(images)} images; at least {MIN_IMAGES} are wanted")
    if labels is not None and labels.shape != (len(images),):
        raise BadInput(f"labels are {labels.shape} for {len(images)} images")
    if len(classes) != network.num_classes:
        raise BadInput(f"{len(classes)} class names; the network has {network.num_classes} classes")
