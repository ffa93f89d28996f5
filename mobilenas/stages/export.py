"""The export stage: which network, and the images that prove, calibrate and judge the file."""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mobilenas.base.errors import BadInput
from mobilenas.base.files import file_name, user_path, write_json, write_text
from mobilenas.base.settings import validated
from mobilenas.data import ImageData, Images, Part, Preparation, read_data
from mobilenas.data.folders import loose_images
from mobilenas.data.found import counted
from mobilenas.data.listing import HIDDEN
from mobilenas.data.splits import Indices, Splits
from mobilenas.evaluate.evaluator import SupernetEvaluator
from mobilenas.export import (
    Calibration,
    Form,
    Report,
    export_network,
    load_images,
)
from mobilenas.export.write import MIN_IMAGES, check_target
from mobilenas.nn import AnyNetwork
from mobilenas.nn.saved import Accuracy, NetworkInfo, load_network
from mobilenas.report.card import export_card
from mobilenas.runs import RunFolder
from mobilenas.runs.beside import BENCH, CARD, PROOF
from mobilenas.runs.lock import held
from mobilenas.runtimes.base import Files, Runtime, read_files
from mobilenas.runtimes.onnxruntime import OnnxRuntime
from mobilenas.search.front import read_search
from mobilenas.space import network_space_from_dict, space_from_dict
from mobilenas.stages.derived import NETWORK
from mobilenas.stages.gradient_run import GradientSettings
from mobilenas.stages.searched import find_supernet
from mobilenas.strategies.methods import strategy_class
from mobilenas.train.calibrate import accuracy
from mobilenas.train.images import TrainingImages, stored_images
from mobilenas.train.networks import NetworkResult, open_network_run
from mobilenas.train.supernets import open_supernet_run

_PROOF_IMAGES = 64  # of a float export
_SAMPLE_IMAGES = 1000  # that the accuracies before and after an int8 export are measured on
_SEARCHED = "validation images, used in the search"
_EPOCHS = "validation images, by which its epoch was chosen"
_CHOICE_IMAGES = 500  # that its scheme is chosen on
_RANGE_IMAGES = 128  # that its ranges are taken from, where the user does not say how many

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Int8:
    """What is asked of an int8 export.

    images: how many calibrate it, None for 128, or all where there are fewer. data: where they are
    from, for a saved network; None for the training part of its data.
    """

    images: int | None = None
    data: str | None = None


@dataclass(frozen=True)
class Target:
    """How a network is to be exported: for a runtime, in a form it has; int8 None for float."""

    runtime: Runtime = field(default_factory=OnnxRuntime)
    form: Form = field(default_factory=Form)
    int8: Int8 | None = None


@dataclass(frozen=True)
class Some:
    """Some images of a part of a data set, by their indices; words: what they are."""

    part: Part
    rows: Indices
    words: str

    def drawn(self, count: int) -> "Some":
        """At most so many of them, in random order: class folders come sorted."""
        return replace(self, rows=np.random.default_rng(0).permutation(self.rows)[:count])

    def halves(self) -> tuple["Some", "Some"]:
        """Half of them, and the others."""
        mixed = self.drawn(len(self.rows)).rows
        first, second = np.array_split(mixed, 2)
        return replace(self, rows=first), replace(self, rows=second)


@dataclass(frozen=True)
class Source:
    """A network and the images that come with it.

    proof: for a float export. ranges, choice, test: for int8, disjoint; ranges None where there are
    no training images. folder: where its files go by default.
    """

    network: AnyNetwork
    info: NetworkInfo
    folder: Path
    proof: Some
    ranges: Some | None
    choice: Some
    test: Some
    data: Mapping[str, Any]

    def images(self, some: Some, count: int) -> Images:
        """At most so many of the images, as the network is evaluated on them."""
        info = self.info
        preparation = Preparation(self.network.space.resolution, info.mean, info.std, info.crop)
        pixels, labels = preparation.centres(some.part, some.drawn(count).rows)
        return Images(pixels.numpy(), labels.numpy())


def run_export(
    run: Path,
    *,
    arch: str | None,
    pick: str,
    target: Target,
    out: Path | None = None,
    supernet: Path | None = None,
    data: str | None = None,
) -> Report:
    """Export an arch of a finished search with the weights of its supernet, recalibrated.

    supernet, data: where it and its images are, if they have moved.
    The accuracy in the file is that on the test images, which no stage before has seen; without
    test images it is that on the validation images.
    """
    found = read_search(run)
    folder = supernet or find_supernet(run, "--supernet")
    trained = open_supernet_run(folder, data=data)
    space = space_from_dict(trained.settings.space)
    chosen = space.parse(found.pick(pick) if arch is None else arch)
    evaluator = SupernetEvaluator(trained)
    if evaluator.describe()["weights"] != found.weights:
        raise BadInput(f"{folder} has other weights than those that {run} was searched with")
    images, splits = trained.images.data, trained.images.splits
    if images.test is not None:
        accuracy = Accuracy(
            evaluator.test_accuracy(chosen), f"{len(images.test.labels)} test images"
        )
    else:
        count = len(splits.validate)
        (share,) = evaluator([chosen])
        accuracy = Accuracy(share, f"{count} {_SEARCHED}")
    crop = trained.settings.config.eval_crop
    info = NetworkInfo(images.classes, images.mean, images.std, crop, accuracy=accuracy)
    network = evaluator.network(chosen)
    return _export(_of_run(network, info, run, images, splits, _SEARCHED), target, out)


def run_export_trained(
    folder: Path, target: Target, out: Path | None = None, data: str | None = None
) -> Report:
    """Export the best network of a finished training; its validation images prove the file.

    data: where the images are, if they have moved.
    The accuracy in the file is that on the test images; without these it is that on the validation
    images, by which the best epoch was chosen.
    """
    run = open_network_run(folder, data=data)
    result = run.folder.result(NetworkResult)
    network, info = load_network(run.network)
    if result.test_images:
        tested = Accuracy(result.test_accuracy or 0.0, f"{result.test_images} test images")
        info = replace(info, accuracy=tested)
    images, splits = run.images.data, run.images.splits
    return _export(_of_run(network, info, folder, images, splits, _EPOCHS), target, out)


def run_export_searched(
    folder: Path, target: Target, out: Path | None = None, data: str | None = None
) -> Report:
    """Export the network that a search by gradient ended in, with the weights of its supernet.

    data: where the images are, if they have moved.
    The accuracy in the file is that on the test images, without these on the validation images,
    which the architecture was learnt from. Raises BadInput where the supernet left no network.
    """
    run = RunFolder.open(folder, "search").at(data=data)
    run.check_finished()
    if not (folder / NETWORK).exists():
        raise BadInput(
            f"{folder} has no network with the weights of its supernet, which not every search can "
            f"leave: `mobilenas train --search {folder}` trains one"
        )
    network, info = load_network(folder / NETWORK)
    prepared = _searched_images(run)
    images, splits = prepared.data, prepared.splits
    if images.test is not None:
        judged = _all(images.test, "test images")
    else:
        judged = Some(images.train, splits.validate, _SEARCHED)
    share = accuracy(network, prepared.evaluation(judged.part, indices=judged.rows))
    info = replace(info, accuracy=Accuracy(share, f"{len(judged.rows)} {judged.words}"))
    return _export(_of_run(network, info, folder, images, splits, _SEARCHED), target, out)


def _searched_images(run: RunFolder) -> TrainingImages:
    """Those of a search by gradient, whose latency tables are not needed any more."""
    settings = run.read(GradientSettings)
    shape = strategy_class(settings.strategy).Config
    config = validated(shape, settings.config, f"{run.path / 'run.json'}: config", "the config")
    resolution = network_space_from_dict(settings.space).resolution
    return stored_images(run, resolution, config, settings.seed)


def run_export_saved(path: Path, data: str, target: Target, out: Path | None) -> Report:
    """Export a saved network; the images of `data`, its test part if it has one, prove the file.

    For int8 the training part gives the ranges and the choice of the scheme. Where there is none,
    `Int8.data` gives the ranges, and half of the images make the choice.
    """
    network, info = load_network(path)
    loaded, classes_by = load_images(data, network.space.resolution, info)
    everything = _all(loaded.train, "training images" if loaded.test else "images")
    proof = everything if loaded.test is None else _all(loaded.test, "test images")
    proof = _enough(proof, everything)
    if loaded.test is None:
        ranges = None
        choice, test = proof.halves()
        test = _enough(test, proof)
    else:
        ranges, choice = everything.halves()
        test = proof
    if target.int8 is not None and target.int8.data is not None:
        ranges = _calibration_images(target.int8.data, network.space.resolution, info)
    folder = path if path.is_dir() else path.parent
    found = loaded.found.to_dict() | {"classes_by": classes_by}
    return _export(Source(network, info, folder, proof, ranges, choice, test, found), target, out)


def _of_run(
    network: AnyNetwork,
    info: NetworkInfo,
    folder: Path,
    data: ImageData,
    splits: Splits,
    validation_images: str,
) -> Source:
    """validation_images: these, and what they have chosen."""
    ranges = Some(data.train, splits.train, "training images")
    everything = Some(
        data.train,
        np.union1d(splits.train, splits.validate),
        "training and validation images",
    )
    validation = Some(data.train, splits.validate, validation_images)
    if data.test is None:
        choice, test = validation.halves()
    else:
        choice, test = validation, _all(data.test, "test images")
    proof, test = _enough(validation, everything), _enough(test, everything)
    return Source(network, info, folder, proof, ranges, choice, test, data.found.to_dict())


def _enough(images: Some, others: Some) -> Some:
    """Images to verify a file on, or others where they are too few for that."""
    return images if len(images.rows) >= MIN_IMAGES else others


def _all(part: Part, words: str) -> Some:
    return Some(part, np.arange(len(part)), words)


def _calibration_images(source: str, resolution: int, info: NetworkInfo) -> Some:
    """Images of any classes, or of none: a folder with images in it, or what `load_data` reads."""
    root = user_path(source)
    if root.is_dir():
        left_out: Counter[str] = Counter()
        loose = loose_images(root, left_out)
        if len(loose):
            hidden = f"; left out: {counted(left_out[HIDDEN], HIDDEN)}" if left_out[HIDDEN] else ""
            log.info("%s: %s%s", source, counted(len(loose), "images"), hidden)
            return _all(loose, f"images of {source}")
    data = read_data(source, resolution, info.crop)
    return _all(data.train, f"training images of {source}")


def _export(source: Source, target: Target, out: Path | None) -> Report:
    tags = ("-int8" if target.int8 else "") + ("-bytes" if target.form.preprocess else "")
    name = file_name(str(source.network.arch))
    path = out or source.folder / f"{name}{tags}{target.runtime.suffix}"
    check_target(path, target.runtime.suffix)
    calibration, words = None, None
    if target.int8 is None:
        images = source.images(source.proof, _PROOF_IMAGES)
    else:
        calibration = _calibration(source, target.int8)
        images = source.images(source.test, _SAMPLE_IMAGES)
        words = f"{len(images)} {source.test.words}"
    with held(path, "export", is_file=True):
        before = _files(path, target)
        report = export_network(
            source.network,
            source.info,
            path,
            images.pixels,
            images.labels,
            runtime=target.runtime,
            form=target.form,
            calibration=calibration,
            images_are=words,
            data=source.data,
        )
        if _files(path, target) != before:
            path.with_name(path.name + BENCH).unlink(missing_ok=True)  # of what was there
        store_beside(report)
        return report


def _files(path: Path, target: Target) -> Files | None:
    """What is at a path for the runtime; None where a file is missing."""
    try:
        return read_files(path, target.runtime.suffixes)
    except BadInput:
        return None


def store_beside(report: Report) -> None:
    """Write what was proved of an exported file, and its model card, beside it; nothing that would
    differ if it were done again.
    """
    path, stored = report.path, report.to_dict()
    del stored["seconds"]
    write_json(path.with_name(path.name + PROOF), stored)
    write_text(path.with_name(path.name + CARD), export_card(stored, path.name))


def _calibration(source: Source, int8: Int8) -> Calibration:
    if source.ranges is None:
        raise BadInput("give --calibration-data: the data has no training images to calibrate")
    count, there = int8.images or _RANGE_IMAGES, len(source.ranges.rows)
    if int8.images is not None and count > there:
        raise BadInput(f"--calibrate {count}: there are {there} {source.ranges.words}")
    return Calibration(
        source.images(source.ranges, count).pixels, source.images(source.choice, _CHOICE_IMAGES)
    )
