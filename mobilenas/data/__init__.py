"""Images in memory or on disk, splits by index, and batches that depend on (seed, step) only."""

from mobilenas.data.augment import Augment
from mobilenas.data.images import EncodedImages, ImageData, Images, Part
from mobilenas.data.loader import Batch, Loader, Preparation, TrainingBatches
from mobilenas.data.sources import load_data, open_data, read_data
from mobilenas.data.splits import Splits, make_splits

__all__ = [
    "Augment",
    "Batch",
    "EncodedImages",
    "ImageData",
    "Images",
    "Loader",
    "Part",
    "Preparation",
    "Splits",
    "TrainingBatches",
    "load_data",
    "make_splits",
    "open_data",
    "read_data",
]
