"""Drawing: boxes where they are, on a copy; labels that can be read; a file for each image."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mmdet", reason="needs pip install '.[detect]'")

from mobilenas.base.errors import BadInput
from mobilenas.detect.predict import draw, drawings, list_images


def test_boxes_are_drawn_where_they_are_a_colour_a_class() -> None:
    picture = Image.new("RGB", (160, 80))  # wide enough for both labels
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


def test_labels_of_boxes_at_one_place_are_all_legible() -> None:
    boxes = [
        {"class": name, "score": 0.9 - i / 10, "box": [5.0, 30.0, 80.0, 90.0]}
        for i, name in enumerate("abc")
    ]
    drawn = np.asarray(draw(Image.new("RGB", (100, 100)), boxes))
    white = (drawn == 255).all(axis=2).any(axis=1)  # rows in which something is written
    assert np.count_nonzero(np.diff(white.astype(int)) == 1) == 3


def test_a_label_at_the_right_border_is_whole() -> None:
    box = {"class": "cat", "score": 1.0, "box": [95.0, 40.0, 99.0, 60.0]}
    drawn = np.asarray(draw(Image.new("RGB", (100, 100)), [box]))
    background = drawn[:38].any(axis=(0, 2))  # columns of the label
    assert background[-1] and not background[0] and background.sum() > 40


def test_drawings_have_names_of_their_own(tmp_path: Path) -> None:
    out = Path("out")
    assert drawings([Path("a/1.jpg"), Path("b/2.jpg")], out) == [out / "1.png", out / "2.png"]
    three = [tmp_path / name for name in ("a/1.jpg", "a/1.png", "2.jpg")]
    names = [out / name for name in ("a/1.jpg.png", "a/1.png.png", "2.jpg.png")]
    assert drawings(three, out) == names
    around = [tmp_path / "b" / ".." / "a" / "1.jpg", tmp_path / "c" / "1.jpg"]
    assert drawings(around, out) == [out / "a" / "1.jpg.png", out / "c" / "1.jpg.png"]


def test_a_folder_without_images_is_named(tmp_path: Path) -> None:
    (tmp_path / ".hidden.png").touch()
    with pytest.raises(BadInput, match=f"{tmp_path}: no images in this folder"):
        list_images([tmp_path], tmp_path / "drawn")


def test_drawings_of_before_are_no_images(tmp_path: Path) -> None:
    out = tmp_path / "drawn"
    for path in (tmp_path / "a.jpg", out / "a.png", out / "b" / "c.png"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    files, found = list_images([tmp_path], out)
    assert files == [tmp_path / "a.jpg"]
    assert found == {"images": 1, "left_out": {"images in --out": 2}}
    assert list_images([out], out)[1] == {"images": 2, "left_out": {}}
