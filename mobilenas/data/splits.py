"""Splits of the training images for search: by index, stratified, a function of the seed."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mobilenas.base.errors import BadInput
from mobilenas.base.randomness import Stream, generator

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Splits:
    """Sorted indices into `ImageData.train`, one array a purpose.

    `train` fits the weights, `calibrate` (a subset of `train`) the batch norm statistics, and
    `validate` (disjoint from `train`) decides between archs. Raises BadInput where the arrays
    are not so.
    """

    train: Indices
    calibrate: Indices
    validate: Indices

    def __post_init__(self) -> None:
        for name in ("train", "calibrate", "validate"):
            indices = getattr(self, name)
            if indices.ndim != 1 or np.any(indices < 0) or np.any(np.diff(indices) <= 0):
                raise BadInput(f"splits: {name} has to be a sorted list of distinct indices")
        if not np.isin(self.calibrate, self.train).all():
            raise BadInput("splits: calibrate has to be a subset of train")
        if np.isin(self.validate, self.train).any():
            raise BadInput("splits: validate and train must not share images")

    def to_json(self) -> dict[str, list[int]]:
        """The index lists, as JSON can hold them."""
        return {
            "train": self.train.tolist(),
            "calibrate": self.calibrate.tolist(),
            "validate": self.validate.tolist(),
        }

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> "Splits":
        """The inverse of `to_json`; raises BadInput where a list is missing or is no split."""
        lists = {}
        if not isinstance(state, dict):
            raise BadInput("splits: must be an object with train, calibrate and validate")
        for name in ("train", "calibrate", "validate"):
            values = state.get(name)
            if not isinstance(values, list) or not all(
                type(value) is int and abs(value) < 2**63 for value in values
            ):
                raise BadInput(f"splits: {name} has to be a list of integers")
            lists[name] = np.array(values, dtype=np.int64)
        return cls(**lists)


def make_splits(
    labels: Indices,
    *,
    seed: int,
    validate: int,
    calibrate: int,
    limit: int | None = None,
    held_out: Indices | None = None,
) -> Splits:
    """Draw the splits of the training images with these `labels` (N,).

    First `validate` images are set aside, of those in `held_out` if it is given: all of these where
    they are no more. Then at most
    `limit` of the others are kept as `train`, and `calibrate` of these are chosen. Each draw has
    every class in its proportion, to less than one image. The same labels and arguments give the
    same splits on every machine.

    Raises BadInput where a number is negative or more than the images that are left.
    """
    images = len(labels)
    for name, count in (("validate", validate), ("calibrate", calibrate)):
        if count < 0:
            raise BadInput(f"{name}_images {count}: must be 0 or more images")
    if limit is not None and limit < 1:
        raise BadInput(f"limit {limit}: must be at least 1 training image")
    if validate >= images:
        raise BadInput(
            f"validate_images {validate}: must be less than the {images} training images; it is a "
            "key of the recipe: --set validate_images=N"
        )

    rng = generator(seed, Stream.SPLITS)
    everything = np.arange(images, dtype=np.int64)
    pool = everything if held_out is None else held_out
    validate_part = _draw(pool, labels, min(validate, len(pool)), rng)
    train = np.setdiff1d(everything, validate_part)
    if limit is not None and limit < len(train):
        train = _draw(train, labels, limit, rng)
    if calibrate > len(train):
        why = f"validate_images {validate}" + (f", limit {limit}" if limit else "")
        raise BadInput(
            f"calibrate_images {calibrate}: must be at most {len(train)}, the training images that "
            f"are left of {images} ({why}); it is a key of the recipe: --set calibrate_images=N"
        )
    return Splits(train, _draw(train, labels, calibrate, rng), validate_part)


def _draw(pool: Indices, labels: Indices, count: int, rng: np.random.Generator) -> Indices:
    """`count` of `pool`, shared among the classes by the method of largest remainders."""
    pool = rng.permutation(pool)
    pool = pool[np.argsort(labels[pool], kind="stable")]  # by class, shuffled within each
    _, first, sizes = np.unique(labels[pool], return_index=True, return_counts=True)
    take, remainder = np.divmod(count * sizes, len(pool))
    ties = rng.permutation(len(sizes))
    by_remainder = np.lexsort((ties, -remainder))
    take[by_remainder[: count - take.sum()]] += 1
    chosen = [pool[start : start + n] for start, n in zip(first, take, strict=True)]
    return np.sort(np.concatenate(chosen))
