"""Digit scenes: deterministic, whole or absent, boxes that fit, held-out digits of their own."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import contents

from mobilenas.data import load_data, scenes
from mobilenas.data.coco import read_coco
from mobilenas.data.scenes import MOST_COVERED, SIDE, draw_scene, make_scenes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "digits"
    make_scenes(folder, train=30, val=8)
    return folder


def test_scenes_pass_the_checks_of_coco_data(folder: Path) -> None:
    assert read_coco(folder).classes == tuple("0123456789")


def test_equal_seeds_give_equal_bytes(folder: Path, tmp_path: Path) -> None:
    make_scenes(tmp_path / "again", train=30, val=8)
    assert contents(tmp_path / "again") == contents(folder)
    make_scenes(tmp_path / "other", train=1, val=1, seed=1)
    other = contents(tmp_path / "other")
    assert other["train/0001.jpg"] != contents(folder)["train/0001.jpg"]
    assert other["train/0001.jpg"] != other["val/0001.jpg"]


def test_a_scene_does_not_depend_on_how_many_there_are(folder: Path, tmp_path: Path) -> None:
    make_scenes(tmp_path / "few", train=3, val=1)
    few, many = contents(tmp_path / "few"), contents(folder)
    images = [name for name in few if name.endswith(".jpg")]
    assert len(images) == 4
    assert all(few[name] == many[name] for name in images)


def test_digits_are_few_large_enough_and_hardly_covered(folder: Path) -> None:
    content: dict[str, Any] = json.loads((folder / "train.json").read_text())
    for image in content["images"]:
        boxes = [a["bbox"] for a in content["annotations"] if a["image_id"] == image["id"]]
        assert 1 <= len(boxes) <= 5
        for i, (x, y, w, h) in enumerate(boxes):
            assert x >= 0 and y >= 0 and x + w <= SIDE and y + h <= SIDE
            assert min(w, h) >= 4 and max(w, h) >= 12
            covers = np.zeros((SIDE, SIDE), bool)
            covers[y : y + h, x : x + w] = True
            for a, b, c, d in boxes[:i]:
                both = covers[b : b + d, a : a + c].sum()
                assert both <= MOST_COVERED * min(w * h, c * d)


def test_a_box_encloses_what_was_drawn() -> None:
    digits = load_data("digits", 8).train
    rng = np.random.default_rng(4)
    pixels, placed = draw_scene(digits, rng)
    assert pixels.shape == (SIDE, SIDE, 3) and pixels.dtype == np.uint8
    # A digit is in one colour that differs from what is behind it: its box has more contrast than
    # the noise of the image alone.
    for _, (left, top, right, bottom) in placed:
        assert pixels[top:bottom, left:right].astype(float).std() > 20


def test_held_out_scenes_show_other_digits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sources = []
    draw = scenes.draw_scene

    def spy(digits: Any, rng: np.random.Generator) -> Any:
        sources.append(digits)
        return draw(digits, rng)

    monkeypatch.setattr(scenes, "draw_scene", spy)
    make_scenes(tmp_path / "digits", train=1, val=1)
    train, val = ({image.tobytes() for image in digits.pixels} for digits in sources)
    assert len(train) > 1000 and len(val) > 300
    assert not train & val


def test_an_interrupted_folder_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(scenes, "write_json", stop)
        with pytest.raises(KeyboardInterrupt):
            make_scenes(tmp_path / "digits", train=2, val=1)
    assert not (tmp_path / "digits").exists()
    make_scenes(tmp_path / "digits", train=1, val=1)
    assert sorted(contents(tmp_path)) == [
        "digits/train.json",
        "digits/train/0001.jpg",
        "digits/val.json",
        "digits/val/0001.jpg",
    ]
