"""Export of a network to files of a runtime, written after the proof that they compute the same."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import mobilenas
from mobilenas.base.errors import BadInput, VerificationFailed, one_line
from mobilenas.base.files import check_writable, write_atomic, write_together
from mobilenas.cost.model import flops_and_params
from mobilenas.data.pixels import short_side
from mobilenas.export.classifier import METADATA, classifier_of
from mobilenas.export.deployable import Calibration, Pixels, deployable, fed, normalise
from mobilenas.export.int8 import check_int8
from mobilenas.export.simulate import divergence_limit
from mobilenas.export.verify import BATCH_SIZES, MAX_DIVERGENCE, Verification, probe_images, verify
from mobilenas.nn import AnyNetwork, EdgeCellNetwork
from mobilenas.nn.saved import NetworkInfo, own_space
from mobilenas.runtimes.base import Dtype, Files, Form, Labels, Runtime, beside, run_all
from mobilenas.runtimes.onnx import with_metadata
from mobilenas.runtimes.onnxruntime import OnnxRuntime

MIN_IMAGES = max(BATCH_SIZES)  # so that the largest batch of the verification is a full one
_PACKAGE = ".mlpackage"  # a folder
_SAME = 1e-6  # of the largest logit: the same file, in other batches
_PLAIN_IMAGES = 64  # that the float model behind an int8 one is proved on


@dataclass(frozen=True)
class Report:
    """What was written and how it was proved.

    path: the main file; size_bytes: of all files that the runtime reads. opset: None where the file
    is not ONNX. metadata: as they stand in the file, all strings. scheme, trials: of int8, how the
    model was quantised, and what other ways gave. seconds: of the conversion. data: what was
    found in the data that the images are from, as `Found.to_dict` has it.
    """

    path: Path
    runtime: str
    dtype: Dtype
    size_bytes: int
    opset: int | None
    seconds: float
    metadata: dict[str, str]
    scheme: str | None
    trials: tuple[dict[str, Any], ...]
    verification: Verification
    data: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return {**asdict(self), "path": str(self.path)}


def export_network(
    network: AnyNetwork,
    info: NetworkInfo,
    path: Path,
    images: Pixels,
    labels: Labels | None,
    *,
    runtime: Runtime | None = None,
    form: Form | None = None,
    calibration: Calibration | None = None,
    images_are: str | None = None,
    data: Mapping[str, Any] | None = None,
) -> Report:
    """Write `network` to `path` for a runtime, after proof that the file computes the same.

    Batch norms are folded into the convolutions. The files carry what a consumer needs to know
    (`metadata_of`), all of `info` included: an ONNX file inside, others in FILE.json beside them.
    The same network and arguments give the same bytes with onnxruntime and executorch.

    images: at least 8 real images (N, R, R, 3), RGB, resized and cropped as `info` has it, for the
    verification; labels (N,): their classes. runtime: ONNX Runtime by default. form: `Form()` by
    default; it has to be one of the runtime, as `make_form` makes it. calibration: of an int8
    export. images_are: what the images are, in words, if the accuracy on them is to be in the
    metadata. data: what was found in the data that they are from, for the report.

    Raises BadInput when an argument does not fit the network or `path` cannot be written, and
    VerificationFailed when the files are not the network. Nothing is written then, and a file that
    was there stays.
    """
    runtime, form = runtime or OnnxRuntime(), form or Form()
    dtype: Dtype = runtime.dtypes[0] if calibration is None else "int8"
    check_target(path, runtime.suffix)
    _check_arguments(network, images, labels, info.classes)
    if isinstance(network, EdgeCellNetwork):
        _check_cells(network, calibration)
    start = time.perf_counter()
    module, example = deployable(network, info, form)
    feed = None if calibration is None else calibration.feed(info, form.preprocess)
    try:
        converted = runtime.convert(module, example, form, feed)
    except BadInput:
        raise
    except Exception as error:  # converters raise errors of their own
        raise VerificationFailed(
            f"{runtime.name} does not convert it: {one_line(error)}"
        ) from error
    seconds = time.perf_counter() - start
    if converted.plain is not None:
        assert feed is not None
        free, few = replace(form, batch=None), images[:_PLAIN_IMAGES]
        plain = {runtime.suffix: converted.plain}
        verify(plain, runtime.load, free, "fp32", network, info, few)
        check_int8(converted.files[runtime.suffix], converted.plain, feed.ranges)
    limit = MAX_DIVERGENCE
    if calibration is not None:
        seen = normalise(calibration.ranges, info.mean, info.std)
        limit = min(limit, divergence_limit(network, seen))
    how = (runtime.load, form, dtype, network, info, images, labels, limit)
    proof = verify(converted.files, *how)
    metadata = metadata_of(network, info, form, dtype)
    if converted.scheme is not None:
        metadata["quantisation"] = converted.scheme
    if images_are is not None and proof.exported_accuracy is not None:
        metadata["top1_accuracy"] = str(proof.exported_accuracy)
        metadata["top1_accuracy_fp32"] = str(proof.torch_accuracy)
        metadata["top1_accuracy_on"] = images_are
    if runtime.stand_in is not None:
        metadata["verified_in"] = runtime.stand_in
    files, about = _contents(converted.files, metadata)
    _check_as_opened(path, runtime, files, about, converted.files, info, form, images)
    size = _write(path, runtime.suffix, files, about)
    return Report(
        path=path,
        runtime=runtime.name,
        dtype=dtype,
        size_bytes=size,
        opset=form.opset if runtime.suffix == ".onnx" else None,
        seconds=seconds,
        metadata=metadata,
        scheme=converted.scheme,
        trials=converted.trials,
        verification=proof,
        data=data,
    )


def metadata_of(network: AnyNetwork, info: NetworkInfo, form: Form, dtype: Dtype) -> dict[str, str]:
    """The metadata of an exported file, free of time stamps; export/README.md lists the keys."""
    resolution = network.space.resolution
    short = short_side(resolution, info.crop)
    flops = flops_and_params(own_space(network), [network.arch])["flops"][0]
    metadata = {
        "mobilenas_version": mobilenas.__version__,
        "space": network.space.name,
        "arch": str(network.arch),
        "flops_multiply_adds": str(flops),
        "input_resolution": str(resolution),
        "input_short_side": str(short),
        "input_layout": form.layout,
        "input_resize": f"short side to {short} (bilinear, antialiased), centre crop of "
        f"{resolution} x {resolution}",
        "input_normalisation": json.dumps({"mean": list(info.mean), "std": list(info.std)}),
        "classes": json.dumps(info.classes),
    }
    if form.batch is not None:
        metadata["batch"] = str(form.batch)
    if dtype != "fp32":
        metadata["dtype"] = dtype
    if info.accuracy is not None:
        metadata["top1_accuracy"] = str(info.accuracy.top1)
        metadata["top1_accuracy_on"] = info.accuracy.images
    return metadata


def _contents(files: Files, metadata: dict[str, str]) -> tuple[Files, bytes | None]:
    """What is written: files, and the metadata that an ONNX file has inside (None)."""
    if ".onnx" in files:
        return {".onnx": with_metadata(files[".onnx"], metadata)}, None
    return files, (json.dumps(metadata, indent=1) + "\n").encode()


def _check_as_opened(
    path: Path,
    runtime: Runtime,
    files: Files,
    about: bytes | None,
    proved: Files,
    info: NetworkInfo,
    form: Form,
    images: Pixels,
) -> None:
    """Open what is about to be written as `eval` does, and compare it with what was proved.

    proved: the files without metadata. Raises VerificationFailed where the metadata say another
    size, normalisation or list of classes, or other logits come of images by what they say.
    """
    try:
        opened = classifier_of(path, runtime, files, None if about is None else json.loads(about))
    except (BadInput, ValueError) as error:
        raise VerificationFailed(f"what would be written cannot be used: {error}") from error
    size = images.shape[1]
    short = short_side(opened.resolution, opened.info.crop)
    for what, said, wanted in (
        ("resolution", opened.resolution, size),
        ("short side", short, short_side(size, info.crop)),
        ("mean", opened.info.mean, tuple(info.mean)),
        ("standard deviation", opened.info.std, tuple(info.std)),
        ("classes", opened.info.classes, tuple(info.classes)),
    ):
        if said != wanted:
            raise VerificationFailed(f"the metadata say {what} {said}, the network has {wanted}")
    seen = np.concatenate([images[:_PLAIN_IMAGES], probe_images(size)])
    batch, fixed = form.batch or len(seen), form.batch is not None
    inputs = fed(seen, info, form.preprocess)
    expected = run_all(runtime.load(proved), inputs, batch, fixed=fixed)
    off = float(np.abs(opened.logits(seen) - expected).max() / np.abs(expected).max())
    if not off <= _SAME:
        raise VerificationFailed(
            f"what would be written gives logits that differ by {off:.2g} of the largest one from "
            "those that were proved"
        )


def _write(path: Path, suffix: str, files: Files, about: bytes | None) -> int:
    """Returns the size of all but the file of the metadata."""
    try:
        if about is None:
            write_atomic(path, lambda file: file.write(files[suffix]))
        else:
            contents = {beside(path, suffix, end): content for end, content in files.items()}
            write_together(contents | {path.with_name(path.name + METADATA): about})
        return sum(map(len, files.values()))
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror}") from error


def check_target(path: Path, suffix: str = ".onnx") -> None:
    """Raise BadInput when `path` cannot be written; before the export, which takes a while."""
    replaced = suffix == _PACKAGE and path.is_dir() and _is_package_or_empty(path)
    check_writable(path.with_name(path.name + METADATA) if replaced else path)
    if suffix == _PACKAGE and path.is_file():
        raise BadInput(f"cannot write {path}: it is a file, and a package is a folder")
    if not path.name.endswith(suffix):  # by which `eval` and `bench` know the runtime
        raise BadInput(f"cannot write {path}: its name must end in {suffix}")


def _is_package_or_empty(folder: Path) -> bool:
    """Whether a package may be written there; one that could not be leaves empty folders."""
    manifest = folder / "Manifest.json"
    return manifest.is_file() or not any(path.is_file() for path in folder.rglob("*"))


def _check_arguments(
    network: AnyNetwork, images: Pixels, labels: Labels | None, classes: tuple[str, ...]
) -> None:
    size, channels = network.space.resolution, network.space.spec.in_channels
    if images.dtype != np.uint8 or images.shape[1:] != (size, size, channels):
        raise BadInput(
            f"images are {images.dtype} {images.shape}; the network takes uint8 "
            f"(N, {size}, {size}, {channels})"
        )
    if len(images) < MIN_IMAGES:
        raise BadInput(f"{len(images)} images; there must be at least {MIN_IMAGES}")
    if labels is not None and labels.shape != (len(images),):
        raise BadInput(f"labels are {labels.shape} for {len(images)} images")
    if len(classes) != network.num_classes:
        raise BadInput(f"{len(classes)} class names; the network has {network.num_classes} classes")


def _check_cells(network: EdgeCellNetwork, calibration: Calibration | None) -> None:
    if calibration is not None:
        raise BadInput("int8: a network of cells is exported in float; leave --int8 out")
    if network.is_constant:
        raise BadInput(f"{network.arch}: no path leads from the image to the logits")
