"""Finding and loading spaces: shipped ones by name, others by path, both with inline overrides.

Spaces of blocks are what every command takes. Of cells there are two kinds: those whose nodes have
ops, which a supernet run takes too (`AnySpace`), and those whose edges have them, which a search
by gradient, stand-alone training and export take (`NetworkSpace`). `ListedSpace` is any of the
three.
"""

import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mobilenas.base.errors import BadInput, shortened
from mobilenas.base.resources import read_preset, read_value, shipped
from mobilenas.base.settings import first_error
from mobilenas.space.cells import CellSpace, CellSpec
from mobilenas.space.edge_cells import EdgeCellSpace, EdgeCellSpec
from mobilenas.space.space import Space
from mobilenas.space.spec import SpaceSpec

AnySpace = Space | CellSpace
NetworkSpace = Space | EdgeCellSpace
ListedSpace = AnySpace | EdgeCellSpace
_COMMA = re.compile(r",(?![^\[]*\])")  # one that is not inside a list


def list_spaces() -> list[str]:
    """Names of the shipped spaces of blocks."""
    return shipped("spaces")


def list_cell_spaces() -> list[str]:
    """Names of the shipped spaces of cells."""
    return shipped("cells")


def load_space(reference: str) -> Space:
    """The space of blocks of a reference; as `load_listed_space`, but cells are BadInput."""
    return _blocks_only(load_listed_space(reference))


def load_any_space(reference: str) -> AnySpace:
    """As `load_listed_space`, but a space of cells whose edges have ops is BadInput."""
    return _no_edges(load_listed_space(reference))


def load_network_space(reference: str) -> NetworkSpace:
    """As `load_listed_space`, but a space of cells whose nodes have ops is BadInput."""
    return _no_nodes(load_listed_space(reference))


def load_listed_space(reference: str) -> ListedSpace:
    """The space of a reference: a shipped name or a YAML path, then optional overrides.

    `s1:width=0.25,candidates.max_paths=2` is s1 with two keys of its YAML replaced.
    Raises BadInput naming the space, file or key.
    """
    base, _, overrides = reference.partition(":")
    try:
        data = read_preset(base, "spaces", "cells")
        for item in filter(None, _COMMA.split(overrides)):
            _override(data, item)
        if overrides:
            data["name"] = f"{data.get('name', base)}:{overrides}"
        return listed_space_from_dict(data)
    except BadInput as error:
        raise BadInput(f"space {shortened(reference)}: {error}") from None


def space_from_dict(data: dict[str, Any]) -> Space:
    """The space of blocks of plain data; as `listed_space_from_dict`, but cells are BadInput."""
    return _blocks_only(listed_space_from_dict(data))


def any_space_from_dict(data: dict[str, Any]) -> AnySpace:
    """As `listed_space_from_dict`, but a space of cells whose edges have ops is BadInput."""
    return _no_edges(listed_space_from_dict(data))


def network_space_from_dict(data: dict[str, Any]) -> NetworkSpace:
    """As `listed_space_from_dict`, but a space of cells whose nodes have ops is BadInput."""
    return _no_nodes(listed_space_from_dict(data))


def listed_space_from_dict(data: dict[str, Any]) -> ListedSpace:
    """Rebuild a space from its `to_dict()` or parsed YAML. One of cells has `cells` and no stages;
    where their edges have ops it has a `skeleton`.

    Raises BadInput naming the key.
    """
    has_cells = "cells" in data and "stages" not in data
    of_cells = EdgeCellSpec if "skeleton" in data else CellSpec
    shape: type[SpaceSpec | CellSpec | EdgeCellSpec] = of_cells if has_cells else SpaceSpec
    try:
        spec = shape.model_validate(data)
    except ValidationError as error:
        raise BadInput(first_error(error, "the space", list(shape.model_fields))) from None
    if isinstance(spec, EdgeCellSpec):
        return EdgeCellSpace(spec)
    return CellSpace(spec) if isinstance(spec, CellSpec) else Space(spec)


def with_defaults(data: object, path: Path) -> dict[str, Any]:
    """The plain data of a space in a file, where keys that were added since have their defaults.

    Raises BadInput naming file and key.
    """
    try:
        if not isinstance(data, dict):
            raise BadInput("must be a mapping")
        return listed_space_from_dict(data).to_dict()
    except BadInput as error:
        raise BadInput(f"{path}: space: {error}") from None


def _blocks_only(space: ListedSpace) -> Space:
    blocks = _no_edges(_no_nodes(space))
    assert isinstance(blocks, Space)
    return blocks


def _no_nodes(space: ListedSpace) -> NetworkSpace:
    if isinstance(space, CellSpace):
        raise BadInput(
            f"{space.name} is a space of cells: only supernet-train, rank, space and arch take it"
        )
    return space


def _no_edges(space: ListedSpace) -> AnySpace:
    if isinstance(space, EdgeCellSpace):
        raise BadInput(
            f"{space.name} is a space of cells whose edges have ops: only search, train, export, "
            "eval, space and arch take it"
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
