"""Augment: bad settings, and what timm's transforms are made to do."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mobilenas.base.errors import BadInput
from mobilenas.base.randomness import borrowed_generators, fixed_generators
from mobilenas.data import Augment

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
OFF: dict[str, Any] = {"crop_padding": 0, "flip": False, "cutout": 0}
IMAGE = Image.fromarray(np.random.default_rng(0).integers(1, 256, (20, 26, 3), dtype=np.uint8))

BAD = [
    ({"crop": "centre"}, "crop centre: choose one of pad, resize"),
    ({"interpolation": "cubic"}, "interpolation cubic: choose one of nearest, bilinear"),
    ({"min_area": 0.0}, r"min_area 0\.0: must be more than 0"),
    ({"min_area": 1.5}, r"min_area 1\.5: .*at most 1"),
    ({"color_jitter": -0.1}, r"color_jitter -0\.1: must be 0 to 1"),
    ({"random_erasing": 1.1}, r"random_erasing 1\.1: must be 0 to 1"),
]
BAD_POLICIES = [
    "",
    "random-m9",
    "rand-m9-inc",
    "rand-x9",
    "rand-m9-tfoo",
    "v0-t3a",
    "rand-m9.5",
    "v1-mstd1",
]


@pytest.mark.parametrize(("settings", "message"), BAD)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Augment(**settings)


@pytest.mark.parametrize("policy", [*BAD_POLICIES, "rand-m9-mstd1.2.3", "rand-m9\n"])
def test_a_policy_that_timm_would_not_take_or_would_ignore_is_refused(policy: str) -> None:
    with pytest.raises(BadInput, match=r"auto_augment .*: must be a policy of timm") as caught:
        Augment(auto_augment=policy)
    assert "\n" not in str(caught.value)


RAND = ["rand-m10-n3-inc1", "rand-m15-mmax20-inc1", "rand-m9-mstd101-tweights", "rand-m9-t3a-inc1"]
FIXED = ["original-mstd0.5", "originalr", "v0", "v0r", "3a"]


@pytest.mark.parametrize("policy", [*RAND, *FIXED, "augmix-m5-w4-d2", "augmix-b1"])
def test_every_operation_of_a_policy_runs(policy: str) -> None:
    settings = Augment(auto_augment=policy, color_jitter=0.4, random_erasing=0.5)
    transform = pickle.loads(pickle.dumps(settings.transform(16, MEAN, STD)))
    seen = set()
    with borrowed_generators() as seed:
        for i in range(60):
            seed(i)
            image = transform(IMAGE)
            assert (image.shape, image.dtype) == ((3, 16, 16), torch.float32)
            seen.add(image.numpy().tobytes())
    assert len(seen) == 60


def changed(size: int = 16, **settings: Any) -> list[torch.Tensor]:
    """20 draws of what becomes of IMAGE."""
    transform = Augment(**OFF | settings).transform(size, MEAN, STD)
    images = []
    for i in range(20):
        with fixed_generators(i):
            images.append(transform(IMAGE))
    return images


GEOMETRY = [{"crop_padding": 2}, {"flip": True}, {"cutout": 4}, {"crop": "resize"}]
COLOUR = [{"color_jitter": 0.4}, {"random_erasing": 0.5}, {"auto_augment": "rand-m9"}]


@pytest.mark.parametrize("settings", [*GEOMETRY, *COLOUR])
def test_each_setting_changes_images(settings: dict[str, Any]) -> None:
    assert len({image.numpy().tobytes() for image in changed()}) == 1
    assert len({image.numpy().tobytes() for image in changed(**settings)}) > 1


def test_colour_jitter_works_beside_a_policy() -> None:
    both = changed(auto_augment="rand-m9", color_jitter=0.9)
    assert not all(map(torch.equal, both, changed(auto_augment="rand-m9")))


def test_only_padding_flip_and_cutout_are_done_in_memory() -> None:
    assert Augment().in_memory
    others = [{"crop": "resize"}, {"color_jitter": 0.1}, {"random_erasing": 0.1}]
    for settings in [*others, {"auto_augment": "v0"}]:
        assert not Augment(**settings).in_memory


@pytest.mark.parametrize("side", [1, 4, 5, 40])
def test_cutout_is_a_square_around_a_pixel_set_to_the_mean(side: int) -> None:
    (whole, *_) = changed()
    centres = {(y, x): torch.zeros(16, 16, dtype=torch.bool) for y in range(16) for x in range(16)}
    for (y, x), hole in centres.items():
        top, left = y - side // 2, x - side // 2
        hole[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = True
    for image in changed(cutout=side):
        hole = (image == 0).all(dim=0)
        assert any(torch.equal(hole, other) for other in centres.values())
        assert torch.equal(image[:, ~hole], whole[:, ~hole])
