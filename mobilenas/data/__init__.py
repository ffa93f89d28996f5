"""Images in memory or on disk, splits by index, and batches that depend on (seed, step) only."""

from mobilenas.data.augment import Augment
from mobilenas.data.batches import TrainBatches, eval_batches
from mobilenas.data.parts import EncodedImages
from mobilenas.data.sources import ImageData, ImageFiles, Images, Part, load_data, open_data
from mobilenas.data.splits import Splits, make_splits
from mobilenas.data.stream import Batches, StreamBatches, centres, make_batches, make_eval_batches

__all__ = [
    "Augment",
    "Batches",
    "EncodedImages",
    "ImageData",
    "ImageFiles",
    "Images",
    "Part",
    "Splits",
    "StreamBatches",
    "TrainBatches",
    "centres",
    "eval_batches",
    "load_data",
    "make_batches",
    "make_eval_batches",
    "make_splits",
    "open_data",
]
