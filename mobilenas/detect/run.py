"""The folder of a detector's training.

run.json         what the user chose, and what the data were
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
from mobilenas.data.coco import CocoData, read_coco
from mobilenas.data.scenes import make_scenes
from mobilenas.detect.config import CocoFiles, load_config, read_config, set_data
from mobilenas.errors import BadInput
from mobilenas.files import read_json, write_json, write_text

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

    def load(self, data: CocoFiles | None) -> Config:
        """mmengine's config of these settings. Raises BadInput."""
        return load_config(
            self.config,
            space=self.space,
            arch=self.arch,
            weights=None if self.weights is None else Path(self.weights),
            data=data,
            options=self.options,
        )


@dataclass(frozen=True)
class DetectRun:
    """A run folder in memory."""

    folder: Path
    settings: DetectSettings
    config: Config
    data: CocoData

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pth"


def create_detect_run(folder: Path, settings: DetectSettings) -> DetectRun:
    """Check settings and data, and write config.py and, last, run.json.

    Raises BadInput when the folder already holds a run, and for settings or data that are wrong,
    before anything is written.
    """
    if (folder / "run.json").exists():
        raise BadInput(
            f"{folder} already holds a run: --resume continues it, or choose another --out"
        )
    if settings.data == DIGITS:
        settings.load(None)  # which may refuse them, before the scenes are made
    data = _read_data(folder, settings.data)
    config = settings.load(_files(data))
    write_text(folder / "config.py", config.pretty_text)
    about = {"mobilenas": __version__, "classes": data.classes, "data_checksum": _checksum(data)}
    write_json(folder / "run.json", settings.model_dump(mode="json") | about)
    return DetectRun(folder, settings, config, data)


def open_detect_run(folder: Path) -> DetectRun:
    """Open a run folder and check its data. Raises BadInput naming what is missing or changed."""
    path = folder / "run.json"
    if not (path.exists() and (folder / "config.py").exists()):
        raise BadInput(f"{folder} holds no detector; `mobilenas detect train` makes one")
    keys = DetectSettings.model_fields
    stored = read_json(path, *keys, "data_checksum")
    try:
        settings = DetectSettings.model_validate({key: stored[key] for key in keys})
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    data = _read_data(folder, settings.data)
    if _checksum(data) != stored["data_checksum"]:
        raise BadInput(f"the annotations of {settings.data} are not those of {folder}")
    config = read_config(str(folder / "config.py"))
    set_data(config, _files(data))  # folders may have moved
    return DetectRun(folder, settings, config, data)


def check_unchanged(run: DetectRun, given: dict[str, Any]) -> None:
    """Raise BadInput when a setting that was given again (not None) is another one now."""
    for name, value in given.items():
        if value is not None and value != getattr(run.settings, name):
            raise BadInput(
                f"{run.folder} was started with another {name}: leave it out to resume, or "
                "choose another --out"
            )


def check_trained(run: DetectRun) -> None:
    """Raise BadInput unless the run has a checkpoint."""
    if not run.checkpoint.exists():
        raise BadInput(
            f"{run.folder} has no checkpoint yet: "
            f"`mobilenas detect train --resume --out {run.folder}` trains it"
        )


def _read_data(folder: Path, source: str) -> CocoData:
    if source != DIGITS:
        return read_coco(Path(source))
    make_scenes(folder / DIGITS)
    return read_coco(folder / DIGITS)


def _files(data: CocoData) -> CocoFiles:
    return CocoFiles(
        data.train.annotations, data.train.images, data.val.annotations, data.val.images
    )


def _checksum(data: CocoData) -> int:
    """Of both annotation files."""
    train, val = (part.annotations.read_bytes() for part in (data.train, data.val))
    return zlib.crc32(val, zlib.crc32(train))
