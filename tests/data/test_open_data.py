"""Data on disk: what load_data decodes, and the same images one by one."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from make_sources import encode, noise, samples, save, write_parquet, write_tar
from PIL import Image

from mobilenas.data import EncodedImages, Images, load_data, open_data, read_data, sources
from mobilenas.data import parquet as parquet_module

TRAIN, TEST = noise(7), noise(4)
LABELS, TEST_LABELS = [0, 0, 1, 1, 1, 2, 2], [0, 1, 2, 2]
NAMES = ["ant", "bee", "cow"]


def in_folders(root: Path) -> None:
    for part, images, labels in (("train", TRAIN, LABELS), ("val", TEST, TEST_LABELS)):
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            save(root / part / NAMES[label] / f"{i}é.png", Image.fromarray(image))


def in_parquet(root: Path) -> None:
    encoded = [encode(image) for image in TRAIN]
    write_parquet(root / "train-0.parquet", encoded[:4], LABELS[:4], names=NAMES)
    write_parquet(root / "train-1.parquet", encoded[4:], LABELS[4:], names=NAMES)
    encoded = [encode(image) for image in TEST]
    write_parquet(root / "test-0.parquet", encoded, TEST_LABELS, names=NAMES)


def in_tars(root: Path) -> None:
    encoded = [encode(image) for image in TRAIN]
    write_tar(root / "pets-train-0.tar", samples(encoded[:4], LABELS[:4]))
    write_tar(root / "pets-train-1.tar", samples(encoded[4:], LABELS[4:]))
    write_tar(root / "pets-validation-0.tar", samples([encode(x) for x in TEST], TEST_LABELS))
    (root / "classes.txt").write_text("ant\nbee\ncow\n")


def in_folders_of_tars(root: Path) -> None:
    encoded = [encode(image) for image in TRAIN]
    write_tar(root / "train" / "0.tar", samples(encoded, LABELS))
    write_tar(root / "test" / "0.tar", samples([encode(x) for x in TEST], TEST_LABELS))
    (root / "train" / "classes.txt").write_text("ant\nbee\ncow\n")


LAYOUTS = [in_folders, in_parquet, in_tars, in_folders_of_tars]


def pixels_of(part: EncodedImages | Images | None) -> np.ndarray:
    assert part is not None
    return np.stack([np.asarray(part.image(i)) for i in range(len(part))])


@pytest.mark.parametrize("write", LAYOUTS)
def test_every_layout_gives_the_same_images_opened_or_loaded(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    write(tmp_path / "pets")
    opened, loaded = open_data(str(tmp_path / "pets")), load_data(str(tmp_path / "pets"), 8)
    for data in (opened, loaded):
        assert (data.name, data.classes) == ("pets", tuple(NAMES))
        assert data.test is not None
        assert data.train.labels.tolist() == LABELS
        assert data.test.labels.tolist() == TEST_LABELS
        assert data.train.labels.dtype == np.int64
        np.testing.assert_array_equal(pixels_of(data.train), TRAIN)
        np.testing.assert_array_equal(pixels_of(data.test), TEST)
    assert opened.mean == (0.485, 0.456, 0.406)
    assert opened.std == (0.229, 0.224, 0.225)


@pytest.mark.parametrize("write", LAYOUTS)
def test_images_can_be_read_in_any_order(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path)
    train = open_data(str(tmp_path)).train
    for index in np.random.default_rng(0).integers(0, len(train), 30):
        np.testing.assert_array_equal(np.asarray(train.image(index)), TRAIN[index])


def test_tars_may_be_listed_and_have_other_members_and_folders(tmp_path: Path) -> None:
    members = [
        ("README.md", b"of no sample"),
        ("a/x.v1.json", b"{}"),
        ("a/x.cls", b" 1\n"),
        ("a/x.PNG", encode(TRAIN[0])),
        ("b/x.jpeg", encode(TRAIN[1])),
        ("b/x.cls", b"0"),
        ("b/x.seg.png", b"another suffix"),
    ]
    files = [write_tar(tmp_path / "a.tar", members)]
    files += [write_tar(tmp_path / "test.tar", samples([encode(TEST[0])], [1]))]
    data = open_data(",".join(map(str, files)))
    assert data.classes == ("0", "1")
    assert data.train.labels.tolist() == [1, 0]
    np.testing.assert_array_equal(pixels_of(data.train), TRAIN[:2])
    np.testing.assert_array_equal(pixels_of(data.test), TEST[:1])
    assert data.train.name(1) == f"{files[0]}, b/x.jpeg"


def test_a_shard_that_vanished_is_named(tmp_path: Path) -> None:
    file = write_tar(tmp_path / "a.tar", samples([encode(x) for x in TRAIN], LABELS))
    train = open_data(str(tmp_path)).train
    file.unlink()
    with pytest.raises(ValueError, match=r"a\.tar, 000003\.png: cannot be read \(.*No such file"):
        train.image(3)


def test_row_groups_are_read_once_in_sequence_and_few_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = noise(30)
    file = write_parquet(tmp_path / "a.parquet", [encode(x) for x in pixels], np.arange(30) % 2)
    train = open_data(str(file)).train
    assert train.blocks is not None
    np.testing.assert_array_equal(train.blocks.starts, np.arange(0, 30, 3))

    read: list[int] = []
    original = parquet_module._read_group
    monkeypatch.setattr(
        parquet_module, "_read_group", lambda *where: read.append(where[1]) or original(*where)
    )
    monkeypatch.setattr(parquet_module, "WINDOW_BYTES", 2 * int(train.blocks.sizes.max()))
    for index in range(30):
        np.testing.assert_array_equal(np.asarray(train.image(index)), pixels[index])
    assert read == list(range(10))
    for index in (29, 26, 23, 26, 29):  # three are kept: two of the window and one more
        train.image(index)
    assert read == list(range(10))
    train.image(0)
    train.image(26)
    train.image(29)
    assert read == [*range(10), 0]
    train.image(23)  # the one that was used longest ago had to go
    assert read == [*range(10), 0, 7]


def test_real_images_have_the_labels_of_the_index(data_root: Path) -> None:
    data = open_data(str(data_root / "imagenet_1k_sample"))
    assert (len(data.train), len(data.classes), data.test) == (1000, 1000, None)
    assert sorted(data.train.labels.tolist()) == list(range(1000))
    assert data.classes[207].startswith("golden retriever")
    assert min(data.train.image(999).size) > 0


@pytest.mark.parametrize("held", [True, False])
def test_files_are_indexed_once_whether_held_or_streamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, held: bool
) -> None:
    in_folders(tmp_path)
    (tmp_path / "train" / "ant" / "notes.txt").touch()
    if not held:
        monkeypatch.setattr(sources, "_HELD_BYTES", 0)
    caplog.set_level("INFO")
    data = read_data(str(tmp_path), 8)
    assert isinstance(data.train, Images) == held
    assert [caplog.text.count(words) for words in ("notes.txt", "7 training images of 3")] == [1, 1]
