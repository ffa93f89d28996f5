"""Supernet and networks: torch modules over the blocks of a space."""

from mobilenas.nn.network import Network, fold_batch_norm
from mobilenas.nn.supernet import Supernet

__all__ = ["Network", "Supernet", "fold_batch_norm"]
