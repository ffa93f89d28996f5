"""Spaces and archs: what may be built. Imports no torch."""

from mobilenas.space.arch import IDENTITY, Arch, Candidate
from mobilenas.space.cells import Cell, CellSpace
from mobilenas.space.library import (
    AnySpace,
    any_space_from_dict,
    list_cell_spaces,
    list_spaces,
    load_any_space,
    load_space,
    space_from_dict,
    with_defaults,
)
from mobilenas.space.space import Block, Genes, Space

AnyArch = Arch | Cell

__all__ = [
    "IDENTITY",
    "AnyArch",
    "AnySpace",
    "Arch",
    "Block",
    "Candidate",
    "Cell",
    "CellSpace",
    "Genes",
    "Space",
    "any_space_from_dict",
    "list_cell_spaces",
    "list_spaces",
    "load_any_space",
    "load_space",
    "space_from_dict",
    "with_defaults",
]
