"""COCO data: where it is found, what is refused and how it is named, what is legal."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("cv2", reason="needs pip install '.[detect]'")

import cv2

from mobilenas.base.errors import BadInput
from mobilenas.data.coco import find_coco, read_coco, read_image

Content = dict[str, list[dict[str, Any]]]
Change = Callable[[Content], object]
FLAT = "annotations without area or whose box is less than a pixel wide or high"


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


def refused(folder: Path) -> str:
    with pytest.raises(BadInput) as error:
        read_coco(folder)
    message = str(error.value)
    assert "\n" not in message
    return message


def refusal(folder: Path, change: Change) -> str:
    """The one line that a change of the training annotations is refused with."""
    changed = content()
    change(changed)
    (folder / "train.json").write_text(json.dumps(changed))
    message = refused(folder)
    assert message.startswith(f"{folder / 'train.json'}: ")
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
            'of another type (number 1: width is "20", must be an integer)',
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
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 0, 3]), f"1 {FLAT} (10: [1, 2, 0, 3])"),
        (lambda c: c["annotations"][0].update(bbox=[9, 9, -3, 3]), f"1 {FLAT} (10: [9, 9, -3, 3])"),
        (lambda c: c["annotations"][0].update(bbox=[9, 9, 0.99, 3]), f"1 {FLAT} (10: "),
        (lambda c: c["annotations"][0].update(bbox=[9, 9, 3, 0.99]), f"1 {FLAT} (10: "),
        (lambda c: c["annotations"][0].update(area=0), f"1 {FLAT} (10: [0, 0, 40, 30])"),
        (lambda c: c["annotations"][0].update(area=float("nan")), "area is not finite (10: nan)"),
        (lambda c: c["annotations"][0].update(area=10**400), "area is not finite (10: 1000"),
        (lambda c: c["annotations"][0].update(bbox=[0, 0, 10**400, 3]), "whose bbox is not"),
        (lambda c: c["annotations"][0].update(bbox=[-2, 0, 3, 3]), "outside the image (10: [-2, 0"),
        (lambda c: c["annotations"][0].update(bbox=[30, 0, 12, 3]), "outside the image (10:"),
        (lambda c: c["annotations"][0].update(bbox=[0, 20, 3, 12]), "outside the image (10:"),
        (
            lambda c: c["annotations"][1].pop("iscrowd"),
            "(number 1: iscrowd is missing, must be an integer)",
        ),
        (
            lambda c: c["annotations"][1].update(area="9", bbox={}),
            '(number 1: bbox is {}, must be a list; area is "9", must be a number)',
        ),
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


def test_the_faults_of_both_parts_are_told_in_one_report(folder: Path) -> None:
    train, val = folder / "train.json", folder / "val.json"
    changed = content()
    changed["annotations"][0]["image_id"] = 9
    changed["categories"].reverse()
    val.write_text(json.dumps(changed))
    (folder / "train" / "a.jpg").unlink()
    differing = f"its categories are not those of {train}, in that order ((7, 'cat') there, (3,"
    missing = f"{train}: 1 image files missing in {folder / 'train'} (a.jpg)"
    unknown = f"{val}: 1 annotations of unknown images (10: 9)"
    assert refused(folder).startswith(f"{missing}; {unknown}; {differing}")

    del changed["categories"][0]["name"]  # the rest of its categories says nothing
    val.write_text(json.dumps(changed))
    message = refused(folder)
    assert message.startswith(f"{missing}; {val}: 1 entries of categories with keys missing")
    assert "its categories are not" not in message

    val.write_text("{")
    assert refused(folder).startswith(f"{missing}; {val} is not JSON: ")
    train.write_text("[]")
    wanted = "is not in COCO format: it needs lists of images, annotations, categories"
    assert refused(folder).startswith(f"{train} {wanted}; {val} is not JSON: ")
    val.write_text(json.dumps(content()))
    assert refused(folder) == f"{train} {wanted}"


def test_normalised_boxes_are_refused(folder: Path) -> None:
    def change(changed: Content) -> None:
        for row in changed["annotations"]:
            row.update(bbox=[0.1, 0.2, 0.5, 0.25], area=0.125)

    boxes = "(10: [0.1, 0.2, 0.5, 0.25], 11: [0.1, 0.2, 0.5, 0.25])"
    assert refusal(folder, change) == f"{folder / 'train.json'}: 2 {FLAT} {boxes}"
    for row in (tiny := content())["annotations"]:
        row.update(bbox=[0, 0, 1, 1], area=1)
    (folder / "train.json").write_text(json.dumps(tiny))
    read_coco(folder)  # a whole pixel is a box


def test_unreadable_images_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = folder / "train" / "a.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(image, quality=95)
    read_coco(folder)
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 3])
    with Image.open(image) as header:
        assert header.size == (40, 30)
    said = f"{folder / 'train.json'}: 1 image files that are unreadable (a.jpg: "
    assert refused(folder).startswith(said)
    image.write_bytes(b"no image")
    assert refused(folder).startswith(said)
    image.write_bytes(whole)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # Pillow refuses what has over twice that
    assert refused(folder).count("1 image files that are unreadable (a.jpg: ") == 2


def write(path: Path, pixels: np.ndarray) -> None:
    path.unlink()
    Image.fromarray(pixels).save(path, format=path.suffix[1:].replace("tif", "tiff"))


@pytest.mark.parametrize(
    ("kind", "dtype", "shape", "said"),
    [
        ("tga", "uint8", (20, 20, 3), "does not know this format"),
        ("tif", "float32", (20, 20), "pixels of type F"),
        ("png", "uint16", (20, 20), "pixels of type I;16"),
    ],
)
def test_what_training_would_not_see_is_refused(
    folder: Path, kind: str, dtype: str, shape: tuple[int, ...], said: str
) -> None:
    changed, name = content(), f"b.{kind}"
    changed["images"][1]["file_name"] = name
    (folder / "train.json").write_text(json.dumps(changed))
    (folder / "train" / "b.png").rename(folder / "train" / name)
    write(folder / "train" / name, np.full(shape, 200).astype(dtype))
    assert f"1 image files that are unreadable ({name}: " in (message := refused(folder))
    assert said in message


def test_colours_of_16_bits_are_refused_too(folder: Path) -> None:
    pixels = np.full((20, 20, 3), 200, np.uint16)  # black, to those who take the upper 8 bits
    assert cv2.imwrite(str(folder / "train" / "b.png"), pixels)
    assert "pixels of type RGB;16B; there must be 8 bits a channel" in refused(folder)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *(("png", mode) for mode in ("RGB", "L", "P", "RGBA", "1")),
        *(("jpg", mode) for mode in ("RGB", "L", "CMYK")),
    ],
)
def test_images_are_read_as_mmdet_reads_them(kind: str, mode: str, tmp_path: Path) -> None:
    transforms = pytest.importorskip("mmcv.transforms", reason="needs the extra detect")
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / f"a.{kind}"
    picture.save(path, exif=exif)
    wanted = transforms.LoadImageFromFile()({"img_path": str(path)})["img"]
    found = read_image("a", path)
    assert found.shape == (40, 30, 3)
    assert (found == wanted[..., ::-1]).all()


def test_a_size_is_that_of_the_turned_image(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 40)).save(folder / "train" / "a.jpg", exif=exif)
    read_coco(folder)


def test_a_byte_order_mark_is_no_fault(folder: Path) -> None:
    path = folder / "train.json"
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert path.read_bytes()[:3] == b"\xef\xbb\xbf"
    read_coco(folder)


def test_what_is_there_is_counted(folder: Path) -> None:
    changed = content()
    changed["annotations"] += [box(12, 1, [0, 0, 9, 9], iscrowd=1)]
    changed["images"].append({"id": 3, "file_name": "b.png", "width": 20, "height": 20})
    (folder / "train.json").write_text(json.dumps(changed))
    train, val = read_coco(folder).content
    assert (train.annotations, train.crowds, train.flat) == (3, 1, 0)
    assert [(image.name, image.boxes) for image in train.images] == [
        ("a.jpg", 2),
        ("b.png", 1),
        ("b.png", 0),
    ]
    assert (len(val.images), val.annotations, val.crowds) == (2, 2, 0)


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
    assert f"{FLAT} are left out: [12]" in caplog.text


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
    with pytest.raises(BadInput, match=r"no .*val\.json; it must be annotations/instances_NAME"):
        find_coco(folder)
    own = folder / "annotations"
    own.mkdir()
    (own / "instances_val2017.json").write_text("{}")
    with pytest.raises(BadInput, match=r"no .*instances_train2017\.json"):
        find_coco(folder)
    (own / "instances_train2017.json").write_text("{}")
    with pytest.raises(BadInput, match=r"no .*/train2017; it must be"):
        find_coco(folder)
    for name in ("train2017", "val2017"):
        (folder / name).mkdir()
    assert [part.images.name for part in find_coco(folder)] == ["train2017", "val2017"]
    with pytest.raises(BadInput, match="is no folder; it must be digits"):
        find_coco(tmp_path / "none")


@pytest.mark.parametrize(
    ("annotations", "images", "names"),
    [
        ("annotations/instances_{}.json", "{}", ("train2014", "val2014")),
        ("annotations/instances_{}.json", "images", ("train", "val")),
        ("annotations/instances_{}.json", "images/{}", ("Train", "Validation")),  # CVAT
        ("{}/_annotations.coco.json", "{}", ("train", "valid")),  # Roboflow
    ],
)
def test_other_layouts_are_read(
    folder: Path, tmp_path: Path, annotations: str, images: str, names: tuple[str, str]
) -> None:
    root = tmp_path / "other"
    for own, name in zip(("train", "val"), names, strict=True):
        place = root / images.format(name)
        shutil.copytree(folder / own, place, dirs_exist_ok=True)
        file = root / annotations.format(name)
        file.parent.mkdir(exist_ok=True)
        shutil.copy(folder / f"{own}.json", file)
    data = read_coco(root)
    assert [part.images for part in (data.train, data.val)] == [
        root / images.format(name) for name in names
    ]
    data.val.annotations.unlink()
    with pytest.raises(BadInput, match=f"there is no {data.val.annotations}; it must be"):
        find_coco(root)


def test_an_export_of_one_part_says_that_there_must_be_two(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "images").mkdir()
    (tmp_path / "annotations" / "instances_default.json").write_text(json.dumps(content()))
    with pytest.raises(BadInput, match=r"is one part; there must be two.*instances_val\.json"):
        find_coco(tmp_path)


def test_real_coco_passes(data_root: Path) -> None:
    classes = read_coco(data_root / "coco_mini").classes
    assert (len(classes), classes[0], classes[-1]) == (80, "person", "toothbrush")
