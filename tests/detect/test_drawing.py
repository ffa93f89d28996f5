"""Drawing: boxes where they are, on a copy."""

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mmdet", reason="needs pip install 'mobilenas[detect]'")

from mobilenas.detect.predict import draw


def test_boxes_are_drawn_where_they_are_a_colour_a_class() -> None:
    picture = Image.new("RGB", (100, 80))
    boxes = [
        {"class": "cat", "score": 0.9, "box": [10.0, 20.0, 40.0, 60.0]},
        {"class": "dog", "score": 0.5, "box": [60.0, 30.0, 90.0, 70.0]},
    ]
    drawn = np.asarray(draw(picture, boxes))
    assert not np.asarray(picture).any()
    cat, dog = drawn[60, 25], drawn[70, 75]
    assert cat.any() and dog.any() and (cat != dog).any()
    assert (drawn[40, 10] == cat).all() and (drawn[40, 40] == cat).all()
    assert not drawn[40, 20:35].any()  # within a box nothing is drawn


def test_a_box_at_the_border_is_drawn() -> None:
    picture = Image.new("RGB", (50, 50))
    box = {"class": "cat", "score": 1.0, "box": [-3.0, -2.0, 55.0, 49.0]}
    assert np.asarray(draw(picture, [box]))[49, 25].any()
