"""Spaces and archs: what may be built. Imports no torch."""

from mobilenas.space.arch import IDENTITY, Arch, Candidate
from mobilenas.space.library import list_spaces, load_space, space_from_dict
from mobilenas.space.space import Block, Genes, Space

__all__ = [
    "IDENTITY",
    "Arch",
    "Block",
    "Candidate",
    "Genes",
    "Space",
    "list_spaces",
    "load_space",
    "space_from_dict",
]
