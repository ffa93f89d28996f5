"""Read metadata.csv, the table of images and labels of Hugging Face's ImageFolder layout."""

import csv
import io
from pathlib import Path

from mobilenas.base.errors import BadInput, one_line
from mobilenas.base.plain import read_text

METADATA = "metadata.csv"
_FILE = "file_name"  # as Hugging Face has it: a path from the folder of the table


def read_metadata(folder: Path, label: str | None) -> list[tuple[Path, str | None]]:
    """The image files that DIR/metadata.csv lists, and their classes, None where it has no labels.

    label: the column with the classes, `label` if None. Raises BadInput naming the row of a file
    that is missing, outside of the folder, listed twice or without a class.
    """
    path = folder / METADATA
    try:
        reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
        rows = list(reader)
        columns = list(reader.fieldnames or ())
    except (OSError, csv.Error) as error:
        raise BadInput(f"{path}: cannot be read as CSV ({one_line(error)})") from error
    wanted = label or "label"
    if _FILE not in columns or (label is not None and label not in columns):
        raise BadInput(
            f"{path}: there must be columns {_FILE} and {wanted}, not only {', '.join(columns)}"
        )
    listed: dict[Path, str | None] = {}
    for number, row in enumerate(rows, start=2):
        image = folder / (row[_FILE] or "")
        if ".." in image.parts or not image.is_relative_to(folder) or not image.is_file():
            raise BadInput(f"{path}, line {number}: {_FILE} {row[_FILE]!r}: no such file")
        if image in listed:
            raise BadInput(f"{path}, line {number}: {_FILE} {row[_FILE]!r} is listed twice")
        name = row[wanted] if wanted in columns else None
        if wanted in columns and not (name and name.strip()):
            raise BadInput(f"{path}, line {number}: {wanted} is empty; it must be a class")
        listed[image] = name and name.strip()
    return list(listed.items())
