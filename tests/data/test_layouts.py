"""Layouts that users have: which folders are parts and which are classes, and what is left out."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from make_sources import encode, noise, samples, write_parquet, write_tar
from PIL import Image

from mobilenas.base.errors import BadInput
from mobilenas.data import ImageData, load_data, open_data

READERS = [lambda source: load_data(source, 8), open_data]
reads = pytest.mark.parametrize("read", READERS, ids=["load", "open"])
Reader = Callable[[str], ImageData]


def make(folder: Path, count: int, classes: Sequence[str] = ("a", "b", "c")) -> Path:
    """`count` images of each class, or in the folder itself."""
    for name in classes or (".",):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i, pixels in enumerate(noise(count)):
            Image.fromarray(pixels).save(folder / name / f"{i:03d}.png")
    return folder


def sizes(data: ImageData) -> tuple[tuple[str, ...], int, int]:
    return data.classes, len(data.train), len(data.test or ())


@reads
@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "test"),
        ("Train", "Test"),
        ("training", "testing"),
        ("TRAIN", "VAL"),
        ("train", "valid"),
        ("training", "Validation"),
        ("seg_train", "seg_test"),
        ("train", "test_images"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("archive/train", "archive/test"),
        ("archive/data/train", "archive/data/val"),
        (".", "test"),
        (".", "val"),
    ],
)
def test_parts_are_told_from_classes(tmp_path: Path, train: str, test: str, read: Reader) -> None:
    make(tmp_path / train, 4)
    make(tmp_path / test, 2)
    (tmp_path / "README.md").write_text("of pets")
    data = read(str(tmp_path))
    assert sizes(data) == (("a", "b", "c"), 12, 6)
    expected = "validation" if "val" in test.lower() else "test"
    assert data.found.test_part == expected


@pytest.mark.parametrize(
    "classes",
    [("train", "plane"), ("test_tube", "flask"), ("seg_train", "seg_test"), ("invalid", "ok")],
)
def test_classes_may_be_called_like_parts(tmp_path: Path, classes: tuple[str, ...]) -> None:
    assert sizes(open_data(str(make(tmp_path, 2, classes)))) == (tuple(sorted(classes)), 4, 0)


def test_classes_may_hold_folders(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        make(tmp_path / name, 2, ("day", "night"))
    assert sizes(open_data(str(tmp_path))) == (("cat", "dog"), 8, 0)


def test_one_folder_of_the_test_part_may_be_a_class(tmp_path: Path) -> None:
    make(tmp_path / "train", 2, ("a", "b"))
    make(tmp_path / "test" / "a", 2, ("deep",))
    data = open_data(str(tmp_path))
    assert sizes(data) == (("a", "b"), 4, 2)
    assert data.found.notes == ("no test images of b",)


def flat_contest(root: Path) -> None:
    make(root / "train", 3, ())
    make(root / "test", 3, ())
    (root / "labels.csv").write_text("id,breed\n000,cat\n")


def flat_test_beside_classes(root: Path) -> None:
    make(root, 2)
    make(root / "test", 3, ())


def two_test_parts(root: Path) -> None:
    make(root / "train", 2)
    make(root / "test", 2)
    make(root / "Testing", 2)


def parts_inside_of_classes(root: Path) -> None:
    for name in ("a", "b"):
        make(root / name, 2, ("train", "test"))


def no_training_part(root: Path) -> None:
    make(root / "test", 2)
    make(root / "val", 2)


def not_utf8(root: Path) -> None:
    make(root, 2)
    make(root / os.fsdecode(b"caf\xe9"), 2, ())


REFUSED: list[tuple[Callable[[Path], None], str]] = [
    (
        flat_contest,
        r"/train: 3 images that are in no class folder; .*labels\.csv is not read; they",
    ),
    (flat_test_beside_classes, r"/test: is it a class or a part of the data\? Rename a class"),
    (two_test_parts, r"Testing and test are names of one part; leave one of them"),
    (parts_inside_of_classes, r"/a holds parts of the data \(test and train\): .* in .*/train/a"),
    (no_training_part, r"no training part beside test and val; it must be in .*/train"),
    (not_utf8, r"class folder '.*caf\\udce9': its name is not UTF-8"),
]


@pytest.mark.parametrize(
    ("build", "message"), REFUSED, ids=[build.__name__ for build, _ in REFUSED]
)
@reads
def test_where_it_cannot_be_told_one_line_says_so(
    tmp_path: Path, build: Callable[[Path], None], message: str, read: Reader
) -> None:
    build(tmp_path)
    with pytest.raises(BadInput, match=message) as caught:
        read(str(tmp_path))
    assert "\n" not in str(caught.value)


@reads
def test_an_unlabelled_test_part_is_not_used(tmp_path: Path, read: Reader) -> None:
    make(tmp_path / "train", 4)
    make(tmp_path / "val", 2)
    make(tmp_path / "test", 5, ())
    make(tmp_path / "extra", 1)
    data = read(str(tmp_path))
    assert sizes(data) == (("a", "b", "c"), 12, 6)
    assert data.found.left_out == {
        "images of the test part, which has no labels": 5,
        "images in neither part": 3,
    }
    assert str(data.found) == (
        f"{tmp_path}: 12 training images of 3 classes (a, b, c), 6 test images (the validation "
        "part); left out: 3 images in neither part, 5 images of the test part, which has no labels"
    )


@reads
def test_hidden_files_are_left_out_and_counted(tmp_path: Path, read: Reader) -> None:
    make(tmp_path, 4)
    make(tmp_path / "a" / ".ipynb_checkpoints", 2, ())
    make(tmp_path / "__MACOSX" / "a", 3, ())
    (tmp_path / "b" / "._000.png").write_bytes(b"\0\5\x16\7")
    (tmp_path / ".DS_Store").write_bytes(b"")
    (tmp_path / "c" / "Thumbs.db").write_bytes(b"")
    data = read(str(tmp_path))
    assert sizes(data) == (("a", "b", "c"), 12, 0)
    assert data.found.left_out == {"hidden files": 7, "other files": 1}


@reads
def test_hidden_members_of_tars_are_left_out(tmp_path: Path, read: Reader) -> None:
    good = samples([encode(x) for x in noise(4)], [0, 1, 0, 1])
    hidden = [
        ("._000000.png", b"x"),
        ("__MACOSX/._000000.png", b"x"),
        (".ipynb_checkpoints/7.png", b"x"),
    ]
    write_tar(tmp_path / "a.tar", [("./" + name, content) for name, content in good] + hidden)
    data = read(str(tmp_path))
    assert sizes(data) == (("0", "1"), 4, 0)
    assert data.found.left_out == {"hidden files": 3}


@reads
def test_links_are_followed_but_not_in_circles(tmp_path: Path, read: Reader) -> None:
    make(tmp_path / "data", 4, ("a", "b"))
    make(tmp_path / "more", 3, ())
    make(tmp_path / "data" / "c", 1, ())
    (tmp_path / "data" / "a" / "linked").symlink_to(tmp_path / "more")
    (tmp_path / "data" / "b" / "back").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "b" / "gone.png").symlink_to(tmp_path / "nothing.png")
    (tmp_path / "data" / "b" / "itself").symlink_to("itself")
    (tmp_path / "data" / "c" / "1.png").symlink_to(tmp_path / "more" / "000.png")
    data = read(str(tmp_path / "data"))
    assert np.bincount(data.train.labels).tolist() == [7, 4, 2]
    assert data.found.left_out == {"links to a folder they are in": 1, "links to nothing": 2}


# --- tables of the hub ---------------------------------------------------------------------------


@reads
def test_a_metadata_table_names_the_classes(tmp_path: Path, read: Reader) -> None:
    for part, count in (("train", 4), ("validation", 2), ("test", 1)):
        make(tmp_path / part, count, ())
        rows = [f"{i:03d}.png,{('cat', 'dog')[i % 2]}\n" for i in range(count)]
        (tmp_path / part / "metadata.csv").write_text("\ufefffile_name,label\n" + "".join(rows))
    (tmp_path / "train" / "004.png").write_bytes(encode(noise(1)[0]))
    data = read(str(tmp_path))
    assert sizes(data) == (("cat", "dog"), 4, 1)
    assert data.train.labels.tolist() == [0, 1, 0, 1]
    assert data.found.left_out == {
        "images that metadata.csv does not list": 1,
        "images of the validation part": 2,
    }


def test_a_table_at_the_top_may_tell_the_parts_and_name_its_column(tmp_path: Path) -> None:
    make(tmp_path / "train", 11, ())
    make(tmp_path / "test", 2, ())
    rows = [f"train/{i:03d}.png,{i}\n" for i in range(11)] + [
        "test/000.png,10\n",
        "test/001.png,2\n",
    ]
    (tmp_path / "metadata.csv").write_text("file_name,kind\n" + "".join(rows))
    (tmp_path / "train" / "more.png").write_bytes(encode(noise(1)[0]))
    data = open_data(f"{tmp_path};label=kind")
    assert data.found.left_out == {"images that metadata.csv does not list": 1}
    assert data.classes == tuple(map(str, range(11)))
    assert data.test is not None
    assert data.test.labels.tolist() == [10, 2]
    with pytest.raises(BadInput, match="columns file_name and breed, not only"):
        open_data(f"{tmp_path};label=breed")


def test_numbers_of_a_table_in_each_part_are_in_their_order_too(tmp_path: Path) -> None:
    make(tmp_path / "train", 11, ())
    table = tmp_path / "train" / "metadata.csv"
    table.write_text("file_name,label\n" + "".join(f"{i:03d}.png,{i}\n" for i in range(11)))
    assert open_data(str(tmp_path)).train.labels.tolist() == list(range(11))
    table.write_text("file_name,kind\n" + "".join(f"{i:03d}.png,{i}\n" for i in range(11)))
    with pytest.raises(BadInput, match=r"train/metadata\.csv: there must be a column label"):
        open_data(str(tmp_path))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("9.png,cat", r"metadata\.csv, line 4: file_name '9\.png': no such file"),
        ("../x/000.png,cat", r"line 4: file_name '\.\./x/000\.png': no such file"),
        ("000.png,cat", r"line 4: file_name '000\.png' is listed twice"),
        ("002.png,", r"line 4: label is empty"),
    ],
)
def test_bad_rows_of_a_table_are_named(tmp_path: Path, row: str, message: str) -> None:
    make(tmp_path / "x", 3, ())
    (tmp_path / "x" / "metadata.csv").write_text(
        f"file_name,label\n000.png,cat\n001.png,dog\n{row}\n"
    )
    with pytest.raises(BadInput, match=message):
        open_data(str(tmp_path / "x"))


# --- parquet and tars of the hub -----------------------------------------------------------------


@reads
@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"),
        ("default/train/0000.parquet", "default/validation/0000.parquet"),
        ("train/0000.parquet", "val/0000.parquet"),
    ],
)
def test_parquet_files_in_folders(tmp_path: Path, train: str, test: str, read: Reader) -> None:
    write_parquet(tmp_path / train, [encode(x) for x in noise(4)], [0, 1, 0, 1])
    write_parquet(tmp_path / test, [encode(x) for x in noise(2)], [0, 1])
    (tmp_path / "README.md").write_text("a card")
    assert sizes(read(str(tmp_path))) == (("0", "1"), 4, 2)


@reads
def test_a_test_part_without_labels_is_not_used(tmp_path: Path, read: Reader) -> None:
    images = [encode(x) for x in noise(4)]
    write_parquet(tmp_path / "train.parquet", images, [0, 1, 0, 1], names=["x", "y"])
    write_parquet(tmp_path / "validation.parquet", images[:2], [0, 1], names=["x", "y"])
    write_parquet(tmp_path / "test.parquet", images[:3], [-1, -1, -1])
    data = read(str(tmp_path))
    assert sizes(data) == (("x", "y"), 4, 2)
    assert data.found.left_out == {"images of the test part, which has no labels": 3}
    write_parquet(tmp_path / "test.parquet", images[:3], [-1, 0, 1], names=["x", "y"])
    with pytest.raises(BadInput, match=r"test\.parquet, row 0: label -1 is out of range"):
        read(str(tmp_path))


def test_tars_with_unlabelled_test_shards(tmp_path: Path) -> None:
    images = [encode(x) for x in noise(4)]
    write_tar(tmp_path / "train" / "0.tar", samples(images, [0, 1, 0, 1]))
    write_tar(tmp_path / "test" / "0.tar", samples(images[:3], [-1, -1, -1]))
    data = open_data(str(tmp_path))
    assert sizes(data) == (("0", "1"), 4, 0)
    assert data.found.left_out == {"images of the test part, which has no labels": 3}


@reads
def test_columns_can_be_named(tmp_path: Path, read: Reader) -> None:
    file = write_parquet(
        tmp_path / "a.parquet", [encode(x) for x in noise(4)], [0, 1, 0, 1], column="pixel_values"
    )
    with pytest.raises(BadInput, match=r'pixel_values, label; --data "\.\.\.;image=NAME" names'):
        read(str(file))
    assert sizes(read(f"{file};image=pixel_values;label=label")) == (("0", "1"), 4, 0)
    with pytest.raises(BadInput, match="no column fine; there are pixel_values, label"):
        read(f"{file};image=pixel_values;label=fine")
    with pytest.raises(BadInput, match="option 'lable=fine': it must be image=COLUMN, label="):
        read(f"{file};lable=fine")


# --- photos and damage ---------------------------------------------------------------------------


@reads
def test_photos_are_turned_upright(tmp_path: Path, read: Reader) -> None:
    pixels = noise(1, 8)[0]
    upright = Image.fromarray(pixels)
    for orientation in range(1, 9):
        exif = upright.getexif()
        exif[0x0112] = orientation
        stored = {
            1: None,
            2: Image.Transpose.FLIP_LEFT_RIGHT,
            3: Image.Transpose.ROTATE_180,
            4: Image.Transpose.FLIP_TOP_BOTTOM,
            5: Image.Transpose.TRANSPOSE,
            6: Image.Transpose.ROTATE_90,
            7: Image.Transpose.TRANSVERSE,
            8: Image.Transpose.ROTATE_270,
        }[orientation]
        (tmp_path / "a").mkdir(exist_ok=True)
        image = upright if stored is None else upright.transpose(stored)
        image.save(tmp_path / "a" / f"{orientation}.png", exif=exif)
    make(tmp_path, 1, ("b",))
    data = read(str(tmp_path))
    for index in range(8):
        np.testing.assert_array_equal(np.asarray(data.train.image(index)), pixels)


def test_turned_photos_are_counted(tmp_path: Path) -> None:
    make(tmp_path, 2, ("a", "b"))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(1)[0]).save(tmp_path / "a" / "000.png", exif=exif)
    assert load_data(str(tmp_path), 8).found.notes == ("1 image turned upright (EXIF)",)


@reads
def test_damaged_images_can_be_left_out(
    tmp_path: Path, read: Reader, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path / "train", 4)
    make(tmp_path / "test", 3)
    (tmp_path / "train" / "b" / "001.png").write_text("not pixels")
    (tmp_path / "test" / "a" / "000.png").write_bytes(b"")
    data = read(f"{tmp_path};damaged=skip")
    assert sizes(data) == (("a", "b", "c"), 11, 8)
    assert data.train.labels.tolist() == [0] * 4 + [1] * 3 + [2] * 4
    assert data.found.left_out == {"damaged images": 2}
    assert data.found.damaged == {"train": [5], "test": [0]}
    assert "001.png: cannot read the image" in caplog.text
    for index in range(11):
        data.train.image(index)


def test_known_damage_is_not_looked_for_again(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    images = [encode(x) for x in noise(8)]
    for row in (3, 4, 5, 7):  # a whole row group, and the last row
        images[row] = b"no"
    write_parquet(file, images, [0, 1] * 4)
    found = open_data(f"{file};damaged=skip").found.damaged
    assert found == {"train": [3, 4, 5, 7]}
    data = open_data(f"{file};damaged=skip", damaged={"train": [3, 4, 5]})
    assert data.train.labels.tolist() == [0, 1, 0, 0, 1]
    assert data.train.blocks is not None
    assert data.train.blocks.starts.tolist() == [0, 3]
    assert data.train.name(3).endswith("row 6")


def test_the_folder_one_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, 2)
    monkeypatch.chdir(tmp_path)
    assert sizes(open_data(".")) == (("a", "b", "c"), 6, 0)
