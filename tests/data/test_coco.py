"""COCO data: where it is found, what is refused and how it is named, what is legal."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mobilenas.data.coco import check_part, find_coco, read_coco
from mobilenas.errors import BadInput

Content = dict[str, list[dict[str, Any]]]
Change = Callable[[Content], object]


def box(number: int, image: int, bbox: list[float], **more: Any) -> dict[str, Any]:
    row = {"id": number, "image_id": image, "category_id": 7, "bbox": bbox, "iscrowd": 0}
    return row | {"area": bbox[2] * bbox[3]} | more


def content() -> Content:
    return {
        "images": [
            {"id": 1, "file_name": "a.jpg", "width": 40, "height": 30},
            {"id": 2, "file_name": "b.png", "width": 20, "height": 20},
        ],
        "annotations": [box(10, 1, [0, 0, 40, 30]), box(11, 2, [5.5, 5, 3, 3])],
        "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("train", "val"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (40, 30)).save(tmp_path / name / "a.jpg")
        Image.new("RGB", (20, 20)).save(tmp_path / name / "b.png")
        (tmp_path / f"{name}.json").write_text(json.dumps(content()))
    return tmp_path


def refusal(folder: Path, change: Change) -> str:
    """The one line that a change of the training annotations is refused with."""
    changed = content()
    change(changed)
    (folder / "train.json").write_text(json.dumps(changed))
    with pytest.raises(BadInput) as error:
        read_coco(folder)
    message = str(error.value)
    assert message.startswith(f"{folder / 'train.json'}: ")
    assert "\n" not in message
    return message


def test_sound_data_passes_with_its_classes_in_order(folder: Path) -> None:
    data = read_coco(folder)
    assert data.classes == ("cat", "dog")
    assert (data.train.images, data.val.images) == (folder / "train", folder / "val")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["images"][0].update(file_name="c.jpg"), "1 image files missing in"),
        (lambda c: c["images"][0].update(file_name="c.jpg"), "(c.jpg)"),
        (
            lambda c: c["images"][1].update(width=21),
            "another size than stated (b.png: 21x20 stated",
        ),
        (
            lambda c: c["images"][1].update(width="20"),
            "keys missing or of another type (number 1: w",
        ),
        (lambda c: c["images"].append("x"), "1 entries of images that are no objects (number 2)"),
        (lambda c: c["images"].append(c["images"][0]), "1 image ids given more than once (1)"),
        (lambda c: c["annotations"][1].update(id=10), "1 annotation ids given more than once (10)"),
        (lambda c: c["categories"][1].update(id=7), "1 category ids given more than once (7)"),
        (
            lambda c: c["categories"][1].update(name="cat"),
            "category names given more than once (cat",
        ),
        (lambda c: c["annotations"][0].update(category_id=9), "of unknown categories (10: 9)"),
        (lambda c: c["annotations"][0].update(image_id=9), "of unknown images (10: 9)"),
        (
            lambda c: c["annotations"][0].update(bbox=[1, 2, 3]),
            "not [left, top, width, height] (10:",
        ),
        (
            lambda c: c["annotations"][0].update(bbox=[1, 2, 3, None]),
            "not [left, top, width, height]",
        ),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 0, 3]), "whose box has no area (10)"),
        (lambda c: c["annotations"][0].update(bbox=[9, 9, -3, 3]), "whose box has no area (10)"),
        (lambda c: c["annotations"][0].update(area=0), "whose box has no area (10)"),
        (lambda c: c["annotations"][0].update(bbox=[-2, 0, 3, 3]), "outside the image (10: [-2, 0"),
        (lambda c: c["annotations"][0].update(bbox=[30, 0, 12, 3]), "outside the image (10:"),
        (lambda c: c["annotations"][0].update(bbox=[0, 20, 3, 12]), "outside the image (10:"),
        (lambda c: c["annotations"][1].pop("iscrowd"), "(number 1: iscrowd)"),
        (lambda c: c["annotations"].clear(), "no annotations at all"),
        (lambda c: c["images"].clear(), "no images at all"),
        (lambda c: c["categories"].clear(), "no categories at all"),
        (lambda c: [a.update(iscrowd=1) for a in c["annotations"]], "no annotation that is not a"),
    ],
)
def test_each_fault_is_named(folder: Path, change: Change, said: str) -> None:
    assert said in refusal(folder, change)


def test_all_faults_are_told_at_once_with_counts_and_the_first_three(folder: Path) -> None:
    def change(changed: Content) -> None:
        changed["images"][0]["height"] = 31
        changed["annotations"] += [box(n, 2, [0, 0, 50, 50]) for n in range(20, 25)]
        changed["annotations"].append(box(30, 5, [0, 0, 1, 1], category_id=8))

    message = refusal(folder, change)
    assert "5 annotations whose box is outside the image (20: [0, 0, 50, 50], 21: " in message
    assert "22: [0, 0, 50, 50], ...)" in message and "23:" not in message
    for said in ("unknown categories (30: 8)", "unknown images (30: 5)", "a.jpg: 40x31 stated"):
        assert said in message


def test_damaged_files_are_named(folder: Path) -> None:
    (folder / "train" / "a.jpg").write_bytes(b"no image")
    assert "1 files that are no images (a.jpg)" in refusal(folder, lambda c: None)
    for text, said in (
        ("{", "is not JSON"),
        ("[]", "is not in COCO format"),
        ('{"images": {}}', "lists of images, annotations, categories"),
    ):
        (folder / "train.json").write_text(text)
        with pytest.raises(BadInput, match=said):
            read_coco(folder)


def test_a_size_is_that_of_the_turned_image(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 40)).save(folder / "train" / "a.jpg", exif=exif)
    read_coco(folder)


def test_legal_rarities_pass(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    changed = content()
    changed["annotations"] = [
        box(10, 1, [0, 0, 40.4, 30]),  # rounded past the border; image 2 has no box
        box(11, 1, [0, 0, 9, 9], iscrowd=1),
        *(box(n, 1, [0, 0, 9, 9]) for n in range(100, 20_100)),
        box(12, 1, [3, 3, 5, 0]),
    ]
    changed["info"] = []
    (folder / "train.json").write_text(json.dumps(changed))
    read_coco(folder)
    assert "annotations [12] have no area and are left out" in caplog.text


def test_both_parts_need_the_same_categories_in_the_same_order(folder: Path) -> None:
    changed = content()
    changed["categories"].reverse()
    (folder / "val.json").write_text(json.dumps(changed))
    with pytest.raises(BadInput, match=r"val\.json: its categories are not those of .*train\.json"):
        read_coco(folder)
    changed["categories"] = content()["categories"][:1]
    (folder / "val.json").write_text(json.dumps(changed))
    with pytest.raises(BadInput, match="2 there, 1 here"):
        read_coco(folder)


def test_each_layout_is_found_and_a_missing_file_is_named(folder: Path, tmp_path: Path) -> None:
    (folder / "images").mkdir()
    assert find_coco(folder)[0].images == folder / "train"
    (folder / "train").rename(folder / "elsewhere")
    assert find_coco(folder)[0].images == folder / "images"
    (folder / "images").rmdir()
    assert find_coco(folder)[0].images == folder
    (folder / "val.json").unlink()
    with pytest.raises(BadInput, match=r"no .*val\.json; wanted annotations/instances_train2017"):
        find_coco(folder)
    own = folder / "annotations"
    own.mkdir()
    (own / "instances_val2017.json").write_text("{}")
    with pytest.raises(BadInput, match=r"no .*instances_train2017\.json"):
        find_coco(folder)
    (own / "instances_train2017.json").write_text("{}")
    with pytest.raises(BadInput, match=r"no .*/train2017; wanted"):
        find_coco(folder)
    for name in ("train2017", "val2017"):
        (folder / name).mkdir()
    assert [part.images.name for part in find_coco(folder)] == ["train2017", "val2017"]
    with pytest.raises(BadInput, match="is no folder; wanted digits"):
        find_coco(tmp_path / "none")


def test_real_coco_passes(data_root: Path) -> None:
    data = read_coco(data_root / "coco_mini")
    assert len(data.classes) == 80 and data.classes[0] == "person"
    assert check_part(data.val)[-1] == (90, "toothbrush")
