"""Finding and loading spaces: shipped ones by name, others by path, both with inline overrides.

There are two kinds: spaces of blocks, which every command takes, and spaces of cells.
"""

import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mobilenas.base.errors import BadInput, shortened
from mobilenas.base.resources import read_preset, read_value, shipped
from mobilenas.base.settings import first_error
from mobilenas.space.cells import CellSpace, CellSpec
from mobilenas.space.space import Space
from mobilenas.space.spec import SpaceSpec

AnySpace = Space | CellSpace
_COMMA = re.compile(r",(?![^\[]*\])")  # one that is not inside a list


def list_spaces() -> list[str]:
    """Names of the shipped spaces of blocks."""
    return shipped("spaces")


def list_cell_spaces() -> list[str]:
    """Names of the shipped spaces of cells."""
    return shipped("cells")


def load_space(reference: str) -> Space:
    """The space of blocks of a reference; as `load_any_space`, but a space of cells is BadInput."""
    return _blocks_only(load_any_space(reference))


def load_any_space(reference: str) -> AnySpace:
    """The space of a reference: a shipped name or a YAML path, then optional overrides.

    `s1:width=0.25,candidates.max_paths=2` is s1 with two keys of its YAML replaced.
    Raises BadInput naming the space, file or key.
    """
    base, _, overrides = reference.partition(":")
    try:
        data = read_preset("cells" if base in list_cell_spaces() else "spaces", base)
        for item in filter(None, _COMMA.split(overrides)):
            _override(data, item)
        if overrides:
            data["name"] = f"{data.get('name', base)}:{overrides}"
        return any_space_from_dict(data)
    except BadInput as error:
        raise BadInput(f"space {shortened(reference)}: {error}") from None


def space_from_dict(data: dict[str, Any]) -> Space:
    """The space of blocks of plain data; as `any_space_from_dict`, but cells are BadInput."""
    return _blocks_only(any_space_from_dict(data))


def any_space_from_dict(data: dict[str, Any]) -> AnySpace:
    """Rebuild a space from its `to_dict()` or parsed YAML, of cells if it has those and no stages.

    Raises BadInput naming the key.
    """
    has_cells = "cells" in data and "stages" not in data
    shape = CellSpec if has_cells else SpaceSpec
    try:
        spec = shape.model_validate(data)
    except ValidationError as error:
        raise BadInput(first_error(error, "the space", list(shape.model_fields))) from None
    return CellSpace(spec) if isinstance(spec, CellSpec) else Space(spec)


def with_defaults(data: object, path: Path) -> dict[str, Any]:
    """The plain data of a space in a file, where keys that were added since have their defaults.

    Raises BadInput naming file and key.
    """
    try:
        if not isinstance(data, dict):
            raise BadInput("must be a mapping")
        return any_space_from_dict(data).to_dict()
    except BadInput as error:
        raise BadInput(f"{path}: space: {error}") from None


def _blocks_only(space: AnySpace) -> Space:
    if isinstance(space, CellSpace):
        raise BadInput(
            f"{space.name} is a space of cells: only supernet-train, rank, space and arch take it"
        )
    return space


def _override(data: dict[str, Any], item: str) -> None:
    key, value = read_value(item)
    *parents, last = key.split(".")
    for parent in parents:
        data = data.get(parent)  # type: ignore[assignment]
        if not isinstance(data, dict):
            raise BadInput(f"override {key!r}: {parent!r} is not a section of this space")
    data[last] = value
