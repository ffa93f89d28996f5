"""Supernet training, fair sampling and batch norm recalibration."""
