"""A detector that is trained: its run folder, created, and opened with or without its data.

run.json         what the user chose; classes; checksums of annotations and first weights
config.py        mmengine's config, with all that follows from it; it is data and never executed
digits/          the built-in scenes, where these are the data
checkpoint.pth   all that a resumed run, evaluation, prediction and export need
timing.json      seconds of work so far, hardware
result.json      COCO's average precisions on the validation part, costs of the detector
mmengine/        logs of mmengine and what it prints
"""

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mobilenas.base.errors import BadInput
from mobilenas.base.files import write_text
from mobilenas.base.settings import Record, Seed
from mobilenas.data.coco import CocoData, CocoPart, find_coco, read_coco
from mobilenas.data.scenes import make_scenes
from mobilenas.detect.build import PlainConfig, check_config, describe_data, errors_of_building
from mobilenas.detect.config import check_classes, load_config, set_data, set_options
from mobilenas.detect.stored import read_stored
from mobilenas.nn.saved import load_block_network
from mobilenas.runs import RunFolder
from mobilenas.runs.folder import check_free
from mobilenas.train.checkpoint import fingerprint

DIGITS, CONFIG = "digits", "config.py"


class DetectSettings(Record):
    """What the user chose, as `load_config` takes it; data is a folder or `digits`."""

    config: str
    space: str | None = None
    arch: str | None = None
    weights: str | None = None
    data: str = DIGITS
    options: tuple[str, ...] = ()
    seed: Seed = 0

    def load(self) -> Config:
        """mmengine's config of these settings, without data and options. Raises BadInput."""
        weights = None if self.weights is None else Path(self.weights)
        return load_config(self.config, space=self.space, arch=self.arch, weights=weights)


@dataclass(frozen=True)
class Detector:
    """The run of a detector without its data, which may be gone. classes: names of the labels."""

    folder: RunFolder
    settings: DetectSettings
    config: Config
    classes: tuple[str, ...]

    @property
    def checkpoint(self) -> Path:
        return self.folder.path / "checkpoint.pth"


@dataclass(frozen=True)
class DetectRun(Detector):
    """The run of a detector, its data checked. found: what is in them, and what is left out."""

    data: CocoData
    found: dict[str, Any]


def create_detect_run(path: Path, settings: DetectSettings) -> DetectRun:
    """Check settings and data, and write config.py and, last, run.json.

    Raises BadInput when the folder already holds a run, and for settings or data that are wrong or
    make a detector or a training that cannot be built, before these are written.
    """
    check_free(path)
    data = None if settings.data == DIGITS else read_coco(Path(settings.data))
    with errors_of_building(settings.config):
        config = settings.load()  # which may refuse them, before the scenes are made
    data = data or read_coco(_source(path, settings.data))
    with errors_of_building(settings.config):
        set_data(config, data)
        set_options(config, settings.options)
        check_classes(config, data)
    found = check_config(config, settings.config, data)
    write_text(path / CONFIG, PlainConfig(config.to_dict()).pretty_text)
    config = _config(path)  # which refuses what cannot be read again
    facts = {
        "classes": data.classes,
        "data": found,
        "data_checksum": _checksum(data.train, data.val),
        "weights_checksum": _weights_checksum(settings.weights),
    }
    places = {"network": settings.weights, "data": settings.data}
    parents = {role: place for role, place in places.items() if place and place != DIGITS}
    folder = RunFolder.create(path, "detect", settings, parents=parents, facts=facts)
    return DetectRun(folder, settings, config, data.classes, data, found)


def open_detector(path: Path) -> Detector:
    """Open a run folder without its data. Raises BadInput naming what is missing."""
    folder = RunFolder.open(path, "detect")
    settings = folder.read(DetectSettings)
    return Detector(folder, settings, _config(path), folder.fact("classes", tuple[str, ...]))


def open_detect_run(
    path: Path, moved: Path | None = None, weights: Path | None = None
) -> DetectRun:
    """Open a run folder and check its data. moved: where these are now, and weights, those that
    training starts from, if they are not where they were.

    Raises BadInput naming what is missing or changed: the data, and before the first checkpoint
    also the weights that training starts from.
    """
    detector = open_detector(path)
    settings, config = detector.settings, detector.config
    if settings.data == DIGITS == str(moved):  # no folder: they are built in
        moved = None
    folder = detector.folder.at(data=moved, network=weights)
    if settings.data != DIGITS and "data" not in folder.parents:  # of a run of before
        folder = folder.at(data=settings.data)
    place = folder.find("data", "--data") if "data" in folder.parents else DIGITS
    settings = settings.model_copy(update={"data": place})
    source = _source(path, place)
    if _checksum(*find_coco(source)) != folder.fact("data_checksum", int):
        raise BadInput(f"{path} was started with another data set than that of {source}")
    data = read_coco(source)
    set_data(config, data)
    set_options(config, settings.options)  # as some may be of the data
    found = describe_data(config, data)
    run = DetectRun(folder, settings, config, data.classes, data, found)
    if settings.weights is not None and (weights or not run.checkpoint.exists()):
        start = folder.find("network", "--weights")
        if folder.facts.get("weights_checksum") not in (None, _weights_checksum(start)):
            raise BadInput(
                f"{start} holds other weights than {path} was started with: choose another --out"
            )
        if "init_cfg" in config.model.backbone:
            config.model.backbone.init_cfg.checkpoint = start
    return run


def check_trained(run: Detector) -> None:
    """Raise BadInput unless the run has a checkpoint."""
    if not run.checkpoint.exists():
        raise BadInput(
            f"{run.folder.path} has no checkpoint yet: "
            f"`mobilenas detect train --resume --out {run.folder.path}` trains it"
        )


def _config(path: Path) -> Config:
    if not (path / CONFIG).is_file():
        raise BadInput(f"{path} lacks {CONFIG}, which the training of a detector starts with")
    return read_stored(path / CONFIG)


def _source(path: Path, data: str) -> Path:
    """The folder of the data of a run."""
    if data != DIGITS:
        return Path(data)
    make_scenes(path / DIGITS)
    return path / DIGITS


def _checksum(train: CocoPart, val: CocoPart) -> int:
    """Of both annotation files."""
    return zlib.crc32(val.annotations.read_bytes(), zlib.crc32(train.annotations.read_bytes()))


def _weights_checksum(weights: str | None) -> int | None:
    if weights is None:
        return None
    network, _ = load_block_network(Path(weights))
    return fingerprint(network)
