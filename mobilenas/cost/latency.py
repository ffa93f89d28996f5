"""Latency tables: the JSON file of a device, and what it says of the archs of a space.

The schema is described in latency_tables/SCHEMA.md. All times are milliseconds for one batch.
"""

import logging
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mobilenas.base.errors import BadInput
from mobilenas.base.files import read_json, user_path, write_json
from mobilenas.base.resources import resource
from mobilenas.base.settings import Record, validated
from mobilenas.base.units import format_image_size
from mobilenas.cost.rows import rows_of
from mobilenas.space import Genes, Space

FOLDER = "latency_tables"

log = logging.getLogger(__name__)
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"

Positive = Annotated[int, Field(ge=1)]
LONGEST = 10**9  # ms, twelve days
Milliseconds = Annotated[float, Field(ge=0, le=LONGEST)]


class Row(Record):
    """One block, stem or head.

    ms: what it adds to a network; predictions are sums of these. median_ms, spread_ms (quartile
    range): of `count` timed runs of its graph alone. flags: why it is to be trusted less.
    """

    ms: Milliseconds
    median_ms: Milliseconds
    spread_ms: Milliseconds
    count: Positive
    flags: tuple[str, ...] = ()


class Figures(Record):
    """How well a predictor does on networks: shares 0..1, errors in ms, relative bias and error.

    bias: mean of (predicted - measured) / measured; mape: mean of its absolute value. The rank
    correlations are None where all predictions or all measurements are equal.
    """

    within_5_percent: float
    within_10_percent: float
    rmse_ms: float
    mape: float
    bias: float
    spearman: float | None
    kendall: float | None


class Check(Record):
    """Networks that were not used to build the table, timed and predicted.

    control_ms: the control network during the check, to be compared with that of the table.
    predictors: `table`; `blocks alone`, the plain sum of median_ms; `flops`, a line fitted to these
    very networks, which favours it; `drift removed`, the table against times as they would have
    been at the speed that the control network had when the table was built.
    """

    networks: Positive
    seed: int
    date: str
    control_ms: float
    predictors: dict[str, Figures]


class Calibration(Record):
    """How `ms` was made of `median_ms`: see `mobilenas.cost.predict`. archs: those it used."""

    method: str
    archs: tuple[str, ...] = ()
    loo_mape: float | None = None


class LatencyTable(Record):
    """Latency on one device with one runtime, data type, batch size and number of threads.

    overhead_ms: what a network takes beyond the sum of its rows (below 0 where it takes less).
    space: the space that it was made for; any other whose rows are all here is covered as well.
    control_ms: the network by which one tells whether the device was as fast at another time.
    source: how it came to be, in words.
    """

    schema_version: Literal[1] = 1
    name: Annotated[str, Field(pattern=NAME)]
    device: Annotated[str, Field(pattern=NAME)]
    processor: str
    runtime: str
    runtime_version: str
    threads: Positive | None
    dtype: Literal["fp32", "fp16", "int8"] | None
    batch: Positive
    resolution: Positive
    space: str
    date: str
    source: str
    overhead_ms: Annotated[float, Field(ge=-LONGEST, le=LONGEST)]
    control_ms: float | None = None
    calibration: Calibration
    rows: Annotated[dict[str, Row], Field(min_length=1)]
    check: Check | None = None

    def missing(self, space: Space) -> list[str]:
        """Keys that the space needs and the table lacks."""
        return [key for key in rows_of(space).distinct if self.find(key) is None]

    def find(self, key: str) -> str | None:
        """The row that answers for a key: its own, or that of the head with another number
        of classes, of which the classifier is a small part. None if there is neither.
        """
        if key in self.rows or not key.startswith("head-"):
            return key if key in self.rows else None
        alike = _without_classes(key)
        return next((row for row in self.rows if _without_classes(row) == alike), None)

    def row(self, key: str) -> Row:
        """The row that answers for a key of a space that the table covers."""
        return self.rows[self.find(key) or key]

    def substitutes(self, space: Space) -> dict[str, str]:
        """By keys of a covered space that the table lacks the rows that answer for them."""
        keys = [key for key in rows_of(space).fixed if key not in self.rows]
        return {key: row for key in keys if (row := self.find(key)) is not None}

    def is_of_size(self, space: Space) -> bool:
        """Whether the images are those that the table was made for."""
        return space.image_size == (self.resolution, self.resolution)

    def covers(self, space: Space) -> bool:
        """Whether every arch of the space can be predicted."""
        return not self.missing(space)

    def column(self, space: Space) -> tuple[float, list[list[float]]]:
        """Milliseconds of what all networks have, and of each block's candidates.

        Raises BadInput for a space of another resolution or with rows that the table lacks, and
        for a negative overhead that its rows do not make up for.
        """
        if not self.is_of_size(space):
            raise BadInput(
                f"latency table {self.name} is for {self.resolution} px,"
                f" space {space.name} has {format_image_size(space.image_size)} px"
            )
        missing = self.missing(space)
        if missing:
            raise BadInput(
                f"latency table {self.name} (made for {self.space}) lacks {len(missing)} of"
                f" {len(rows_of(space).distinct)} rows of space {space.name}, such as {missing[0]};"
                " mobilenas latency build measures those of a space"
            )
        rows = rows_of(space)
        fixed = self.overhead_ms + sum(self.row(key).ms for key in rows.fixed)
        blocks = [
            [0.0 if key is None else self.rows[key].ms for key in block] for block in rows.choices
        ]
        least = fixed + sum(map(min, blocks))
        if least <= 0:
            raise BadInput(
                f"latency table {self.name}: with overhead_ms {self.overhead_ms:g} a network of "
                f"space {space.name} takes {least:g} ms; it must be above 0"
            )
        return fixed, blocks

    def fits(self, space: Space) -> bool:
        """Whether `column` has the milliseconds of a space that the table covers; if not, it is
        logged why it is left out.
        """
        try:
            self.column(space)
        except BadInput as error:
            log.warning("%s; it is left out", error)
            return False
        return True

    def predict(self, space: Space, genes: Genes) -> NDArray[np.float64]:
        """Milliseconds (n,) of genes (n, blocks). Raises BadInput as `column` does."""
        fixed, blocks = self.column(space)
        per_block = [np.array(ms)[genes[:, i]] for i, ms in enumerate(blocks)]
        return fixed + np.sum(per_block, axis=0)


def _without_classes(key: str) -> list[str]:
    """A key without its next to last part, which is the number of classes of a head."""
    parts = key.split("-")
    return [*parts[:-2], parts[-1]]


def read_table(path: Path) -> LatencyTable:
    """Load a table. Raises BadInput naming the file and the key that is wrong."""
    table = validated(LatencyTable, read_json(path), path, "the table")
    if table.name != path.stem:
        raise BadInput(f"{path}: name: {table.name!r} is not the name of the file")
    return table


def write_table(folder: Path, table: LatencyTable) -> Path:
    """Write a table as folder/NAME.json, atomically."""
    path = folder / f"{table.name}.json"
    write_json(path, table.model_dump(mode="json"))
    return path


def list_tables() -> dict[str, Path]:
    """Tables by name: those shipped and those in ./latency_tables, which come first."""
    folders = (resource(FOLDER), Path(FOLDER))
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.json"))}


def readable_tables() -> list[LatencyTable]:
    """All tables that there are; a file that is none is left out, and logged."""
    tables = []
    for path in list_tables().values():
        try:
            tables.append(read_table(path))
        except BadInput as error:
            log.warning("left out: %s", error)
    return tables


def find_table(reference: str, space: Space | None) -> LatencyTable:
    """The table of a file path, a table name, or a device with one table that covers the space.

    space: None for any. Raises BadInput for a device that is not known (lists those that are) or
    that has several such tables (lists them).
    """
    if reference.endswith(".json"):
        return read_table(user_path(reference))
    known = list_tables()
    if reference in known:
        return read_table(known[reference])
    tables = readable_tables()
    of_device = [table for table in tables if table.device == reference]
    if not of_device:
        devices = ", ".join(sorted({table.device for table in tables})) or "none"
        raise BadInput(f"no latency table for device {reference!r}; known devices: {devices}")
    fitting = [
        table
        for table in of_device
        if space is None or (table.is_of_size(space) and table.covers(space))
    ]
    if len(fitting) > 1:
        names = ", ".join(table.name for table in fitting)
        raise BadInput(f"device {reference} has several tables: name one of {names}")
    if space is not None and not fitting and len(of_device) > 1:
        names = ", ".join(f"{table.name} ({table.resolution} px)" for table in of_device)
        raise BadInput(
            f"no table of device {reference} covers space {space.name} at"
            f" {format_image_size(space.image_size)} px; it has {names}"
        )
    # A single one that does not fit says what is wrong with it as soon as it is used.
    return (fitting or of_device)[0]
