"""Images in memory, splits stored by index, and batches that depend on (seed, step) only."""

from mobilenas.data.batches import Augment, TrainBatches, eval_batches
from mobilenas.data.sources import ImageData, Images, load_data
from mobilenas.data.splits import Splits, make_splits

__all__ = [
    "Augment",
    "ImageData",
    "Images",
    "Splits",
    "TrainBatches",
    "eval_batches",
    "load_data",
    "make_splits",
]
