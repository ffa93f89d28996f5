"""What a seed gave in the first release it gives for good, so that its runs can be resumed."""

import numpy as np
import pytest

from mobilenas.data import Augment, Images, Loader, Preparation
from mobilenas.data.order import EpochOrder
from mobilenas.data.splits import make_splits
from mobilenas.space import load_space
from mobilenas.strategies import Fair, Uniform

IMAGES = Images(
    np.random.default_rng(0).integers(0, 256, (20, 12, 12, 3), dtype=np.uint8), np.arange(20)
)


def test_order_of_the_images() -> None:
    order = EpochOrder(np.arange(20), 8, 3)
    assert order(0).tolist() == [7, 17, 16, 2, 13, 6, 4, 9]
    assert order(3).tolist() == [12, 16, 1, 3, 10, 0, 14, 18]


def test_splits() -> None:
    splits = make_splits(np.arange(40) % 4, seed=3, validate=8, calibrate=6)
    assert splits.validate.tolist() == [1, 8, 14, 19, 21, 32, 34, 39]
    assert splits.calibrate.tolist() == [9, 22, 26, 31, 33, 36]


@pytest.mark.parametrize(
    ("erasing", "total"), [(0.0, -968.1725475024432), (0.5, -1593.233098468976)]
)
def test_changes_of_the_images(erasing: float, total: float) -> None:
    """Of whole batches, and of one image at a time."""
    augment = Augment(crop_padding=2, flip=True, cutout=3, random_erasing=erasing)
    loader = Loader(Preparation(12, (0.5,) * 3, (0.25,) * 3))
    batches = loader.training(IMAGES, np.arange(20), batch_size=8, seed=3, augment=augment)
    images, labels = batches(5)
    assert labels.tolist() == [16, 3, 18, 17, 0, 15, 9, 11]
    assert images.double().sum().item() == pytest.approx(total, abs=1e-3)


def test_archs_of_a_step() -> None:
    fair, uniform = Fair(load_space("macro"), 3), Uniform(load_space("s1"), 3)
    assert str(fair.archs(5)[0]) == "id_id_e3k3_e6k5_e6k5_e6k5_e6k5_e3k3"
    assert str(uniform.archs(5)[0]).startswith("e3k79_e3k3579_e6k3579_e3k357_e6k9_e3k3579")
