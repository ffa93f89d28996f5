"""Trainings: their configs, images, steps and checkpoints, and batch norm recalibration."""
