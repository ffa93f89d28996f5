"""Supernets and networks: torch modules over the blocks or cells of a space."""

from mobilenas.nn.cells import CellSupernet
from mobilenas.nn.edge_cells import EdgeCellNetwork, EdgeCellSupernet
from mobilenas.nn.fold import fold_batch_norm, fold_for_export
from mobilenas.nn.network import Network
from mobilenas.nn.plain_network import AnyNetwork, plain_network
from mobilenas.nn.supernet import Supernet

AnySupernet = Supernet | CellSupernet

__all__ = [
    "AnyNetwork",
    "AnySupernet",
    "CellSupernet",
    "EdgeCellNetwork",
    "EdgeCellSupernet",
    "Network",
    "Supernet",
    "fold_batch_norm",
    "fold_for_export",
    "plain_network",
]
