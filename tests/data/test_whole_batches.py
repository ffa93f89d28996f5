"""Batches: a function of (seed, step), and equal to a slow reference, image by image."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilenas.base.errors import BadInput
from mobilenas.base.randomness import Stream, generator
from mobilenas.data import Augment, Images, Loader, Preparation, TrainingBatches
from mobilenas.data.whole_batches import augment_batch

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
LOADER = Loader(Preparation(12, MEAN, STD))
NONE = Augment(crop_padding=0, flip=False, cutout=0)


def make_images(count: int, height: int = 12, width: int = 12) -> Images:
    rng = np.random.default_rng(0)
    # 1..255, so that a black pixel can only come from the padding; the label is the row.
    pixels = rng.integers(1, 256, (count, height, width, 3), dtype=np.uint8)
    return Images(pixels, np.arange(count, dtype=np.int64))


def make_batches(images: Images, augment: Augment = NONE, **changes: Any) -> TrainingBatches:
    asked: dict[str, Any] = {"batch_size": 8, "seed": 3} | changes
    return LOADER.training(images, np.arange(len(images)), augment=augment, **asked)


def augmented(images: Images, augment: Augment, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """All images as one batch, of any shape: networks take square ones only."""
    rows = np.arange(len(images))
    rng = generator(3, Stream.AUGMENT, step)
    pixels = torch.from_numpy(images.pixels)
    inputs = augment_batch(pixels, rows, len(rows), rng, augment, MEAN, STD)
    return inputs, torch.from_numpy(images.labels)


def normalised(pixels: np.ndarray) -> np.ndarray:
    """(..., H, W, 3) uint8 -> (..., 3, H, W), by the definition."""
    return np.moveaxis((pixels / 255 - np.array(MEAN)) / np.array(STD), -1, -3)


def denormalised(batch: torch.Tensor) -> np.ndarray:
    """(N, 3, H, W) -> (N, H, W, 3) uint8, the inverse of `normalised`."""
    values = np.moveaxis(batch.numpy().astype(np.float64), 1, -1)
    return np.round((values * STD + MEAN) * 255).astype(np.uint8)


@pytest.mark.parametrize("augment", [NONE, Augment(2, True, 5)])
def test_types_shapes_and_memory_layout(augment: Augment) -> None:
    inputs, labels = make_batches(make_images(20), augment)(1)
    assert inputs.shape == (8, 3, 12, 12)
    assert (labels.shape, labels.dtype) == ((8,), torch.int64)
    oblong, _ = augmented(make_images(20, 10, 14), augment, 1)
    assert oblong.shape == (20, 3, 10, 14)
    for images in (inputs, oblong):
        assert images.dtype == torch.float32
        assert images.is_contiguous(memory_format=torch.channels_last)


def test_without_augmentation_the_images_are_only_normalised() -> None:
    images = make_images(40)
    inputs, labels = make_batches(images)(2)
    np.testing.assert_allclose(inputs, normalised(images.pixels[labels]), atol=1e-5)


def test_each_epoch_shows_each_image_at_most_once_in_a_new_order() -> None:
    batches = make_batches(make_images(43))
    assert batches.steps_per_epoch == 5
    epochs = [
        torch.cat([batches(step)[1] for step in range(first, first + 5)]).tolist()
        for first in (0, 5, 10)
    ]
    for seen in epochs:
        assert len(seen) == len(set(seen)) == 40
    assert epochs[0] != epochs[1] != epochs[2]


def test_only_the_given_indices_are_shown() -> None:
    images = make_images(40)
    chosen = np.array([3, 8, 9, 20, 31])
    batches = LOADER.training(images, chosen, batch_size=5, seed=0, augment=Augment())
    assert sorted(batches(7)[1].tolist()) == chosen.tolist()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.lists(st.integers(0, 60), min_size=1, max_size=6))
def test_a_batch_depends_on_seed_and_step_alone(step: int, before: list[int]) -> None:
    images = make_images(20)
    fresh, used = (make_batches(images, Augment(2, True, 5)) for _ in range(2))
    for other in before:
        used(other)
    for one, other_one in zip(fresh(step), used(step), strict=True):
        assert one.numpy().tobytes() == other_one.numpy().tobytes()


def test_the_global_generators_are_neither_read_nor_moved() -> None:
    batches = make_batches(make_images(20), Augment(2, True, 5))
    np.random.seed(1)  # noqa: NPY002 - the global generator is what is tested
    torch.manual_seed(1)
    states = str(np.random.get_state()), torch.get_rng_state()  # noqa: NPY002
    first = batches(0)[0]
    assert str(np.random.get_state()) == states[0]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[1])
    torch.manual_seed(2)
    assert torch.equal(batches(0)[0], first)


def test_seeds_and_steps_differ() -> None:
    images = make_images(20)
    batch = make_batches(images, Augment())(0)[0]
    assert not torch.equal(batch, make_batches(images, Augment())(1)[0])
    assert not torch.equal(batch, make_batches(images, Augment(), seed=4)(0)[0])


def windows(image: np.ndarray, padding: int) -> list[bytes]:
    """All crops of the padded image back to its size, row by row."""
    height, width, _ = image.shape
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    return [
        padded[top : top + height, left : left + width].tobytes()
        for top in range(2 * padding + 1)
        for left in range(2 * padding + 1)
    ]


def test_crop_and_flip_give_windows_of_the_padded_image_all_equally_often() -> None:
    images = make_images(50, 9, 11)
    counts = np.zeros((2, 9), dtype=int)
    for step in range(40):
        inputs, labels = augmented(images, Augment(1, True, 0), step)
        for pixels, label in zip(denormalised(inputs), labels.tolist(), strict=True):
            choices = windows(images.pixels[label], 1)
            flipped = pixels.tobytes() not in choices
            crop = pixels[:, ::-1].tobytes() if flipped else pixels.tobytes()
            counts[int(flipped), choices.index(crop)] += 1
    # 2,000 draws of 18 equal outcomes: 111 each, standard deviation 10.2.
    assert counts.sum() == 2000
    assert np.all(np.abs(counts - 2000 / 18) < 5 * 10.2)


def test_padding_is_black_before_normalisation() -> None:
    images = make_images(8)
    inputs, _ = make_batches(images, Augment(crop_padding=12, flip=False, cutout=0))(0)
    black = normalised(np.zeros((1, 1, 3), dtype=np.uint8)).ravel()
    is_black = np.isclose(inputs.numpy(), black[None, :, None, None], atol=1e-5)
    assert is_black.all(axis=1).any()  # shown at all with crops that leave the image
    np.testing.assert_array_equal(is_black.any(axis=1), is_black.all(axis=1))


def test_flip_off_never_flips() -> None:
    images = make_images(20)
    inputs, labels = make_batches(images, Augment(crop_padding=2, flip=False, cutout=0))(0)
    for pixels, label in zip(denormalised(inputs), labels.tolist(), strict=True):
        assert pixels.tobytes() in windows(images.pixels[label], 2)


@pytest.mark.parametrize("side", [1, 4, 5, 40])
def test_cutout_is_a_square_around_a_pixel_set_to_the_mean(side: int) -> None:
    height, width = 10, 13
    images = make_images(50, height, width)
    centres = set()
    for step in range(40):
        inputs, labels = augmented(images, Augment(0, False, side), step)
        expected = normalised(images.pixels[labels])
        holes = (inputs == 0).all(dim=1).numpy()
        kept = np.broadcast_to(~holes[:, None], expected.shape)
        np.testing.assert_allclose(inputs.numpy()[kept], expected[kept], atol=1e-5)
        for hole in holes:
            # By the DARTS code: from centre - side // 2, clipped at the borders.
            matching = {
                (y, x)
                for y in range(height)
                for x in range(width)
                if np.array_equal(hole, reference_hole(height, width, y, x, side))
            }
            assert matching
            centres |= matching
    assert len(centres) == height * width


def reference_hole(height: int, width: int, y: int, x: int, side: int) -> np.ndarray:
    hole = np.zeros((height, width), dtype=bool)
    top, left = y - side // 2, x - side // 2
    hole[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = True
    return hole


def test_turning_one_augmentation_off_leaves_the_others_as_they_were() -> None:
    images = make_images(20)
    full = make_batches(images, Augment(2, True, 5))(0)[0]
    without_cutout = make_batches(images, Augment(2, True, 0))(0)[0]
    holes = full == 0
    assert torch.equal(full[~holes], without_cutout[~holes])


def test_eval_batches_keep_order_and_the_last_partial_batch() -> None:
    images = make_images(30)
    indices = np.array([4, 2, 9, 11, 29, 0, 17])
    batches = list(LOADER.evaluation(images, indices, 3))
    assert [len(labels) for _, labels in batches] == [3, 3, 1]
    assert torch.cat([labels for _, labels in batches]).tolist() == indices.tolist()
    inputs = torch.cat([inputs for inputs, _ in batches])
    np.testing.assert_allclose(inputs, normalised(images.pixels[indices]), atol=1e-5)
    assert batches[0][0].is_contiguous(memory_format=torch.channels_last)
    assert list(LOADER.evaluation(images, indices[:0], 3)) == []


@pytest.mark.parametrize("size", [0, 21])
def test_a_batch_size_without_enough_images_is_refused(size: int) -> None:
    with pytest.raises(BadInput, match=rf"batch_size {size}: must be 1\.\.20"):
        make_batches(make_images(20), batch_size=size)


def test_other_bad_numbers_are_refused() -> None:
    with pytest.raises(BadInput, match="crop_padding -1"):
        Augment(crop_padding=-1)
    with pytest.raises(BadInput, match="cutout -3"):
        Augment(cutout=-3)
    with pytest.raises(BadInput, match="batch_size 0: it must be 1 or more"):
        next(LOADER.evaluation(make_images(3), np.arange(3), 0))
