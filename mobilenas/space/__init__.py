"""Spaces and archs: what may be built. Imports no torch."""

from mobilenas.space.arch import IDENTITY, Arch, Candidate
from mobilenas.space.cells import Cell, CellSpace
from mobilenas.space.choice import Choice
from mobilenas.space.edge_cells import EdgeCellSpace
from mobilenas.space.genotype import Genotype
from mobilenas.space.library import (
    AnySpace,
    ListedSpace,
    NetworkSpace,
    any_space_from_dict,
    list_cell_spaces,
    list_spaces,
    listed_space_from_dict,
    load_any_space,
    load_listed_space,
    load_network_space,
    load_space,
    network_space_from_dict,
    space_from_dict,
    with_defaults,
)
from mobilenas.space.space import Block, Genes, Space

AnyArch = Arch | Cell | Genotype

__all__ = [
    "IDENTITY",
    "AnyArch",
    "AnySpace",
    "Arch",
    "Block",
    "Candidate",
    "Cell",
    "CellSpace",
    "Choice",
    "EdgeCellSpace",
    "Genes",
    "Genotype",
    "ListedSpace",
    "NetworkSpace",
    "Space",
    "any_space_from_dict",
    "list_cell_spaces",
    "list_spaces",
    "listed_space_from_dict",
    "load_any_space",
    "load_listed_space",
    "load_network_space",
    "load_space",
    "network_space_from_dict",
    "space_from_dict",
    "with_defaults",
]
