"""The folder of a detector's training.

run.json         what the user chose; classes; checksums of annotations and first weights
config.py        mmengine's config, with all that follows from it
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
from pydantic import BaseModel, ConfigDict, ValidationError

from mobilenas import __version__
from mobilenas.base.errors import BadInput
from mobilenas.base.files import read_json, write_json, write_text
from mobilenas.data.coco import CocoData, CocoPart, find_coco, read_coco
from mobilenas.data.scenes import make_scenes
from mobilenas.detect.build import PlainConfig, check_config
from mobilenas.detect.config import load_config, read_config, set_data, set_options
from mobilenas.nn.saved import load_network
from mobilenas.train.checkpoint import fingerprint

DIGITS = "digits"


class DetectSettings(BaseModel):
    """What the user chose, as `load_config` takes it; data is a folder or `digits`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    config: str
    space: str | None = None
    arch: str | None = None
    weights: str | None = None
    data: str = DIGITS
    options: tuple[str, ...] = ()
    seed: int = 0

    def load(self) -> Config:
        """mmengine's config of these settings, without data and options. Raises BadInput."""
        weights = None if self.weights is None else Path(self.weights)
        return load_config(self.config, space=self.space, arch=self.arch, weights=weights)


@dataclass(frozen=True)
class Detector:
    """A run folder without its data, which may be gone. classes: the names of the labels."""

    folder: Path
    settings: DetectSettings
    config: Config
    classes: tuple[str, ...]

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pth"


@dataclass(frozen=True)
class DetectRun(Detector):
    """A run folder in memory, its data checked."""

    data: CocoData


def create_detect_run(folder: Path, settings: DetectSettings) -> DetectRun:
    """Check settings and data, and write config.py and, last, run.json.

    Raises BadInput when the folder already holds a run, and for settings or data that are wrong or
    make a detector or a training that cannot be built, before these are written.
    """
    if (folder / "run.json").exists():
        raise BadInput(
            f"{folder} already holds a run: --resume continues it, or choose another --out"
        )
    data = None if settings.data == DIGITS else read_coco(Path(settings.data))
    config = settings.load()  # which may refuse them, before the scenes are made
    data = data or read_coco(_source(folder, settings.data))
    set_data(config, data)
    set_options(config, settings.options)
    check_config(config, settings.config, data.train)
    write_text(folder / "config.py", PlainConfig(config.to_dict()).pretty_text)
    config = _config(folder)  # which refuses what cannot be read again
    about = {
        "mobilenas": __version__,
        "classes": data.classes,
        "data_checksum": _checksum(data.train, data.val),
        "weights_checksum": _weights_checksum(settings),
    }
    write_json(folder / "run.json", settings.model_dump(mode="json") | about)
    return DetectRun(folder, settings, config, data.classes, data)


def open_detector(folder: Path) -> Detector:
    """Open a run folder without its data. Raises BadInput naming what is missing."""
    settings, stored = _read(folder)
    return Detector(folder, settings, _config(folder), tuple(stored["classes"]))


def open_detect_run(folder: Path, moved: Path | None = None) -> DetectRun:
    """Open a run folder and check its data, which are in `moved` where that is given.

    Raises BadInput naming what is missing or changed: the data, and before the first checkpoint
    also the weights that training starts from.
    """
    settings, stored = _read(folder)
    if moved is not None:
        settings = settings.model_copy(update={"data": str(moved.resolve())})
    elif settings.data != DIGITS and not Path(settings.data).is_dir():
        raise BadInput(f"the data of {folder} are no longer in {settings.data}: give their --data")
    source = _source(folder, settings.data)
    if _checksum(*find_coco(source)) != stored["data_checksum"]:
        raise BadInput(f"{folder} was started with another data set than that of {source}")
    data, config = read_coco(source), _config(folder)
    set_data(config, data)
    set_options(config, settings.options)  # as some may be of the data
    run = DetectRun(folder, settings, config, data.classes, data)
    known = stored.get("weights_checksum")
    if not run.checkpoint.exists() and known not in (None, _weights_checksum(settings)):
        raise BadInput(
            f"{settings.weights} holds other weights than {folder} was started with: choose "
            "another --out"
        )
    return run


def check_unchanged(run: DetectRun, given: dict[str, Any]) -> None:
    """Raise BadInput when a setting that was given again (not None) is another one now."""
    for name, value in given.items():
        if value is not None and value != getattr(run.settings, name):
            raise BadInput(
                f"{run.folder} was started with another {name}: leave it out to resume, or "
                "choose another --out"
            )


def check_trained(run: Detector) -> None:
    """Raise BadInput unless the run has a checkpoint."""
    if not run.checkpoint.exists():
        raise BadInput(
            f"{run.folder} has no checkpoint yet: "
            f"`mobilenas detect train --resume --out {run.folder}` trains it"
        )


def _read(folder: Path) -> tuple[DetectSettings, dict[str, Any]]:
    """The settings of a run folder, and all that run.json holds."""
    path = folder / "run.json"
    if not (path.exists() and (folder / "config.py").exists()):
        raise BadInput(f"{folder} holds no detector; `mobilenas detect train` makes one")
    keys = DetectSettings.model_fields
    stored = read_json(path, *keys, "classes", "data_checksum")
    try:
        return DetectSettings.model_validate({key: stored[key] for key in keys}), stored
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _config(folder: Path) -> Config:
    return read_config(str(folder / "config.py"))


def _source(folder: Path, data: str) -> Path:
    """The folder of the data of a run."""
    if data != DIGITS:
        return Path(data)
    make_scenes(folder / DIGITS)
    return folder / DIGITS


def _checksum(train: CocoPart, val: CocoPart) -> int:
    """Of both annotation files."""
    return zlib.crc32(val.annotations.read_bytes(), zlib.crc32(train.annotations.read_bytes()))


def _weights_checksum(settings: DetectSettings) -> int | None:
    if settings.weights is None:
        return None
    network, _ = load_network(Path(settings.weights))
    return fingerprint(network)
