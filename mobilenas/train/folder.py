"""What the folders of all trainings have in common: settings, the data's checksum, splits."""

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from mobilenas.base.errors import BadInput
from mobilenas.base.files import read_json
from mobilenas.data import ImageData, ImageFiles, Splits
from mobilenas.space import with_defaults
from mobilenas.train.config import RunConfig


class RunSettings(BaseModel):
    """What the user chose. `space` is a whole space as plain data, its classes those of `data`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    space: dict[str, Any]
    data: str
    seed: int


Settings = TypeVar("Settings", bound=RunSettings)


def read_run_json(path: Path, kind: type[Settings]) -> Settings:
    """The settings in a run.json. Raises BadInput naming what is missing or wrong."""
    stored = read_json(path, *kind.model_fields)
    try:
        settings = kind.model_validate({key: stored[key] for key in kind.model_fields})
        space = with_defaults(settings.space, path)
        return settings.model_copy(update={"space": space})
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def check_unchanged(folder: Path, settings: RunSettings, given: Mapping[str, object]) -> None:
    """Raise BadInput when a setting that was given again (not None) is another one now."""
    for name, value in given.items():
        if value is not None and value != getattr(settings, name):
            raise BadInput(
                f"{folder} was started with another {name}: leave it out to resume, or "
                "choose another --out"
            )


def check_data(folder: Path, data: ImageData | ImageFiles, source: str) -> None:
    """Raise BadInput unless these are the images that the run in a folder was made from."""
    if checksum(data) != read_json(folder / "run.json").get("data_checksum"):
        raise BadInput(f"the images of {source} are not those that {folder} was made from")


def read_splits(folder: Path, images: int) -> Splits:
    """The splits of a run folder, of so many training images. Raises BadInput."""
    splits = Splits.from_json(read_json(folder / "splits.json"))
    for name, indices in vars(splits).items():
        if len(indices) and indices[-1] >= images:
            raise BadInput(
                f"{folder / 'splits.json'}: {name} has image {indices[-1]}, there are {images}"
            )
    return splits


def validation_size(config: RunConfig, num_images: int) -> int:
    """Images to validate on: as set, else a fifth of all, 5,000 at most. BadInput for none."""
    size = config.validate_images or min(5000, num_images // 5)
    if not size:
        raise BadInput(
            f"{num_images} training images: 5 are wanted, to validate on a fifth of them"
        )
    return size


def checksum(data: ImageData | ImageFiles) -> int:
    """Of the training images in memory, or of the names of those on disk; and of the labels."""
    if isinstance(data, ImageData):
        images = zlib.crc32(data.train.pixels.data)
    else:
        names = (Path(data.train.name(index)).name for index in range(len(data.train)))
        images = zlib.crc32("\n".join(names).encode())
    return zlib.crc32(data.train.labels.tobytes(), images)


def worked_seconds(folder: Path) -> float:
    """Seconds of work that the run in a folder has behind it, by its timing.json; else 0."""
    path = folder / "timing.json"
    return float(read_json(path, "seconds")["seconds"]) if path.exists() else 0.0
