"""A saved network or an exported file, opened as its user opens it: by what is in it alone."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mobilenas.base.errors import BadInput, VerificationFailed, one_line
from mobilenas.base.files import read_json
from mobilenas.export.deployable import Pixels, fed, normalise
from mobilenas.nn.saved import NetworkInfo, load_network
from mobilenas.runtimes.base import Files, Floats, Runtime, read_files, run_all
from mobilenas.runtimes.onnx import metadata_in
from mobilenas.runtimes.probe import probe
from mobilenas.runtimes.registry import runtime_of

METADATA = ".json"  # put to the name of a main file that has no place for them


@dataclass(frozen=True)
class Classifier:
    """A network that is ready to run: images (n, R, R, 3) to logits (n, classes)."""

    runtime: str
    resolution: int
    info: NetworkInfo
    logits: Callable[[Pixels], Floats]


def open_classifier(path: Path) -> Classifier:
    """A saved network, or an exported file by what its metadata say. Raises BadInput."""
    made_by = runtime_of(path)
    if made_by is not None:
        return _read(path, made_by())
    network, info = load_network(path)
    network = network.to(memory_format=torch.channels_last)

    def logits(images: Pixels) -> Floats:
        inputs = torch.from_numpy(normalise(images, info.mean, info.std))
        with torch.inference_mode():
            result: Floats = network(inputs).numpy()
        return result

    return Classifier("torch", network.space.resolution, info, logits)


def _read(path: Path, runtime: Runtime) -> Classifier:
    files = read_files(path, runtime.suffixes)
    if runtime.suffix == ".onnx":
        return classifier_of(path, runtime, files)
    if runtime.suffix == ".pte":
        probe(path, torch.get_num_threads())  # a damaged program aborts the process it is in
    return classifier_of(path, runtime, files, read_json(path.with_name(path.name + METADATA)))


def classifier_of(
    path: Path, runtime: Runtime, files: Files, about: Mapping[str, Any] | None = None
) -> Classifier:
    """An exported file by its contents and metadata, which an ONNX file has inside (None).

    path: its name in messages. Raises BadInput where the runtime refuses the file, and where the
    metadata are incomplete or of another one.
    """
    try:
        run = runtime.load(files)
    except VerificationFailed as error:
        raise BadInput(f"{path}: {error}") from None
    if about is None:
        about = metadata_in(files[".onnx"])
    try:
        resolution = int(about["input_resolution"])
        short = int(about.get("input_short_side", resolution))  # older files do not say it
        scale = json.loads(about["input_normalisation"])
        info = NetworkInfo(
            classes=tuple(json.loads(about["classes"])),
            mean=tuple(scale["mean"]),
            std=tuple(scale["std"]),
            crop=resolution / short,
        )
        batch = int(about["batch"]) if "batch" in about else None
        takes_bytes = about["input_layout"] == "NHWC, RGB, uint8"
    except KeyError as error:
        raise BadInput(f"{path} is not an export of mobilenas: no metadata {error}") from None
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise BadInput(f"{path}: metadata: {error}") from None

    def logits(images: Pixels) -> Floats:
        inputs = fed(images, info, takes_bytes)
        return run_all(run, inputs, batch or len(inputs), fixed=batch is not None)

    _check_runs(path, logits, resolution, len(info.classes))
    return Classifier(runtime.name, resolution, info, logits)


def _check_runs(
    path: Path, logits: Callable[[Pixels], Floats], resolution: int, classes: int
) -> None:
    """Raise BadInput unless the file is what its metadata say."""
    said = f"{path}: metadata: {resolution} px and {classes} classes, but the file"
    try:
        found = logits(np.zeros((1, resolution, resolution, 3), np.uint8))
    except Exception as error:  # runtimes raise errors of their own
        raise BadInput(f"{said} does not run so: {one_line(error)}") from None
    if found.shape != (1, classes):
        raise BadInput(f"{said} gives {found.shape[-1]} logits")
