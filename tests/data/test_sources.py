"""Sources: what each layout loads as."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_sources import (
    BLUE,
    RED,
    RNG,
    encode,
    noise,
    plain_folders,
    save,
    write_cifar10,
    write_parquet,
)
from PIL import Image
from torchvision import transforms

from mobilenas.base.errors import BadInput
from mobilenas.data import load_data

# --- digits -------------------------------------------------------------------------------------


def test_digits_need_no_files_and_are_split_by_class() -> None:
    data = load_data("digits", 16)
    assert data.name == "digits"
    assert data.classes == tuple("0123456789")
    assert data.test is not None
    for part in (data.train, data.test):
        assert part.pixels.shape == (len(part.labels), 16, 16, 3)
        assert part.pixels.dtype == np.uint8
        assert part.labels.dtype == np.int64
        np.testing.assert_array_equal(part.pixels[..., 0], part.pixels[..., 2])
    counts = np.bincount(data.test.labels), np.bincount(data.train.labels)
    assert sum(map(sum, counts)) == 1797
    np.testing.assert_allclose(counts[0] / (counts[0] + counts[1]), 0.2, atol=0.005)


def test_digits_are_the_same_each_time_and_mean_and_std_are_of_train() -> None:
    one, two = load_data("digits", 12), load_data("digits", 12)
    assert one.train.pixels.tobytes() == two.train.pixels.tobytes()
    assert (one.mean, one.std) == (two.mean, two.std)
    values = one.train.pixels / 255
    np.testing.assert_allclose(one.mean, values.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(one.std, values.std(axis=(0, 1, 2)), rtol=1e-12)


def test_a_nearest_neighbour_tells_the_digits_apart() -> None:
    data = load_data("digits", 8)
    assert data.test is not None
    train, test = (p.pixels[..., 0].reshape(-1, 64) / 16 for p in (data.train, data.test))
    distance = (test**2).sum(1)[:, None] + (train**2).sum(1) - 2 * test @ train.T
    guess = data.train.labels[distance.argmin(axis=1)]
    assert (guess == data.test.labels).mean() > 0.97


# --- class folders ------------------------------------------------------------------------------


def test_class_folders(tmp_path: Path) -> None:
    data = load_data(str(plain_folders(tmp_path / "pets")), 8)
    assert (data.name, data.classes, data.test) == ("pets", ("cat", "dog"), None)
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.train.pixels[0, 0, 0].tolist() == list(RED)
    assert data.train.pixels[5, 7, 7].tolist() == list(BLUE)


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_train_and_test_folders(tmp_path: Path, held_out: str) -> None:
    plain_folders(tmp_path / "train")
    save(tmp_path / held_out / "cat" / "a.png", Image.new("RGB", (8, 8)))
    save(tmp_path / held_out / "dog" / "deep" / "b.png", Image.new("RGB", (8, 8)))
    data = load_data(str(tmp_path), 8)
    assert len(data.train.labels) == 6
    assert data.test is not None
    assert data.test.labels.tolist() == [0, 1]


def test_test_wins_over_val_and_says_so(tmp_path: Path) -> None:
    plain_folders(tmp_path / "train")
    plain_folders(tmp_path / "val")
    save(tmp_path / "test" / "cat" / "a.png", Image.new("RGB", (8, 8)))
    save(tmp_path / "test" / "dog" / "a.png", Image.new("RGB", (8, 8)))
    data = load_data(str(tmp_path), 8)
    assert data.test is not None
    assert len(data.test.labels) == 2
    assert data.found.left_out == {"images of the validation part": 6}


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for name in ("plane", "train"):
        save(tmp_path / name / "a.png", Image.new("RGB", (8, 8)))
    assert load_data(str(tmp_path), 8).classes == ("plane", "train")


def test_every_kind_of_pixel_becomes_rgb(tmp_path: Path) -> None:
    plain_folders(tmp_path)
    colour = Image.new("RGB", (8, 8), RED)
    save(tmp_path / "cat" / "a_alpha.png", Image.new("RGBA", (8, 8), (*RED, 100)))
    save(tmp_path / "cat" / "b_grey.png", Image.new("L", (8, 8), 77))
    save(tmp_path / "cat" / "c_palette.png", colour.quantize(4))
    save(tmp_path / "cat" / "d_one_bit.png", Image.new("1", (8, 8), 1))
    save(tmp_path / "cat" / "e_grey_alpha.png", Image.new("LA", (8, 8), (50, 9)))
    save(tmp_path / "cat" / "f_print.jpg", colour.convert("CMYK"))
    pixels = load_data(str(tmp_path), 8).train.pixels[3:9, 4, 4]
    expected = [RED, (77, 77, 77), RED, (255, 255, 255), (50, 50, 50), RED]
    np.testing.assert_allclose(pixels.astype(int), expected, atol=3)


def test_other_files_are_skipped_and_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain_folders(tmp_path)
    (tmp_path / "cat" / "notes.txt").write_text("x")
    (tmp_path / "README.md").write_text("x")
    (tmp_path / ".cache").mkdir()
    assert len(load_data(str(tmp_path), 8).train.labels) == 6
    assert [record.message.count("notes.txt") for record in caplog.records] == [1]


@pytest.mark.parametrize("crop", [1.0, 0.875, 0.5])
@pytest.mark.parametrize("size", [(40, 24), (24, 41), (10, 7), (7, 11), (16, 16), (19, 16), (1, 5)])
def test_scale_and_crop_as_torchvision_does(
    tmp_path: Path, size: tuple[int, int], crop: float
) -> None:
    plain_folders(tmp_path)
    image = Image.fromarray(RNG.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    save(tmp_path / "cat" / "a.png", image)
    ours = load_data(str(tmp_path), 16, crop).train.pixels[3]
    short = {1.0: 16, 0.875: 18, 0.5: 32}[crop]
    theirs = transforms.CenterCrop(16)(transforms.Resize(short)(image))
    np.testing.assert_array_equal(ours, np.asarray(theirs))


def test_images_in_memory_are_cropped_too() -> None:
    whole, centre = load_data("digits", 32), load_data("digits", 16, 0.5)
    assert whole.train.pixels.shape[1:3] == (32, 32)
    np.testing.assert_array_equal(centre.train.pixels, whole.train.pixels[:, 8:24, 8:24])
    assert load_data("digits", 8, 0.5).train.pixels.shape[1:3] == (8, 8)  # of 8 x 8 originals


# --- parquet ------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["img", "image"])
@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("form", ["PNG", "BMP"])
def test_parquet_layouts(tmp_path: Path, column: str, nested: bool, form: str) -> None:
    pixels = noise(7)
    encoded = [encode(image, form) for image in pixels]
    file = tmp_path / "images.parquet"
    write_parquet(file, encoded, [0, 1, 2, 0, 1, 2, 0], column=column, nested=nested)
    data = load_data(str(file), 8)
    np.testing.assert_array_equal(data.train.pixels, pixels)
    assert data.train.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert data.classes == ("0", "1", "2")
    assert data.test is None


def test_parquet_folder_has_parts_by_name_and_names_of_classes(tmp_path: Path) -> None:
    pixels = noise(8)
    encoded = [encode(image) for image in pixels]
    root, names = tmp_path / "tiny", ["ant", "bee", "cow"]
    write_parquet(root / "train-00001-of-00002.parquet", encoded[2:4], [1, 0], names=names)
    write_parquet(root / "train-00000-of-00002.parquet", encoded[:2], [0, 1], names=names)
    write_parquet(root / "test-00000-of-00001.parquet", encoded[4:6], [2, 1], names=names)
    write_parquet(root / "validation-00000-of-00001.parquet", encoded[6:], [0, 0], names=names)
    data = load_data(str(root), 8)
    assert (data.name, data.classes) == ("tiny", ("ant", "bee", "cow"))
    np.testing.assert_array_equal(data.train.pixels, pixels[:4])
    assert data.train.labels.tolist() == [0, 1, 1, 0]
    assert data.test is not None
    np.testing.assert_array_equal(data.test.pixels, pixels[4:6])
    assert data.found.left_out == {"images of the validation part": 2}

    listed = load_data(f"{root}/train-00001-of-00002.parquet,{root}/test-00000-of-00001.parquet", 8)
    np.testing.assert_array_equal(listed.train.pixels, pixels[2:4])
    assert listed.test is not None
    np.testing.assert_array_equal(listed.test.pixels, pixels[4:6])


def test_a_lone_validation_file_is_the_training_part(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_parquet(tmp_path / "validation-0.parquet", [encode(x) for x in noise(2)], [0, 1])
    data = load_data(str(tmp_path), 8)
    assert len(data.train.labels) == 2
    assert data.test is None
    assert "this is the training part" in caplog.text


def test_more_rows_than_are_held_at_a_time_keep_their_order(tmp_path: Path) -> None:
    pixels = noise(2500, 4)
    file = write_parquet(tmp_path / "a.parquet", [encode(x) for x in pixels], np.arange(2500) % 2)
    np.testing.assert_array_equal(load_data(str(file), 4).train.pixels, pixels)


# --- CIFAR --------------------------------------------------------------------------------------


def test_cifar_as_torchvision_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = write_cifar10(tmp_path, monkeypatch)
    data = load_data(f"cifar10:{tmp_path}", 32)
    assert (data.name, data.classes) == ("cifar10", ("plane", "car", "bird"))
    np.testing.assert_array_equal(data.train.pixels, pixels[:4])
    assert data.train.pixels.flags.c_contiguous
    assert data.train.labels.tolist() == [0, 1, 2, 1]
    assert data.test is not None
    np.testing.assert_array_equal(data.test.pixels, pixels[4:])
    assert load_data(f"cifar10:{tmp_path}", 16).train.pixels.shape == (4, 16, 16, 3)


def test_a_channel_that_never_varies_does_not_divide_by_zero(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("cat", "dog"):
        save(tmp_path / name / "0.png", Image.new("RGB", (8, 8), RED))
    assert load_data(str(tmp_path), 8).std == (1 / 255,) * 3
    assert "channel 0 hardly varies" in caplog.text


# --- the real CIFAR-10 --------------------------------------------------------------------------

REAL = Path(os.environ.get("MOBILENAS_DATA", "/nonexistent")) / "cifar10"


@pytest.mark.skipif(
    not REAL.is_dir(),
    reason="set MOBILENAS_DATA to the folder that contains cifar10/ (parquet) to run this",
)
def test_real_cifar10_has_the_published_statistics() -> None:
    data = load_data(str(REAL), 32)
    assert data.train.pixels.shape == (50_000, 32, 32, 3)
    assert np.bincount(data.train.labels).tolist() == [5_000] * 10
    assert data.classes[:3] == ("airplane", "automobile", "bird")
    assert data.test is not None
    assert len(data.test.labels) == 1_000
    np.testing.assert_allclose(data.mean, (0.49139968, 0.48215841, 0.44653091), atol=1e-8)
    np.testing.assert_allclose(data.std, (0.24703223, 0.24348513, 0.26158784), atol=1e-8)


def test_webp_is_opened_without_asking_other_formats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow asks WebP late; for small images that took longer than the decoding."""
    pixels = noise(2)
    files = [encode(image, "WEBP") for image in pixels]
    save(tmp_path / "a" / "0.webp", Image.fromarray(pixels[0]))
    save(tmp_path / "b" / "0.webp", Image.fromarray(pixels[1]))
    expected = [np.asarray(Image.open(tmp_path / name / "0.webp").convert("RGB")) for name in "ab"]
    asked = []
    for name, (factory, accept) in list(Image.OPEN.items()):

        def noted(file: object, path: object, name: str = name, make: Any = factory) -> Any:
            asked.append(name)
            return make(file, path)

        monkeypatch.setitem(Image.OPEN, name, (noted, accept))
    np.testing.assert_array_equal(load_data(str(tmp_path), 8).train.pixels, expected)
    assert set(asked) == {"WEBP"}
    for damaged, reason in (
        (files[0][:-20], "could not create"),
        (b"RIFF\0\0\0\0WEBPxx", "not an image"),
    ):
        (tmp_path / "b" / "0.webp").write_bytes(damaged)
        with pytest.raises(BadInput, match=rf"b/0\.webp: cannot read the image \({reason}"):
            load_data(str(tmp_path), 8)


@pytest.mark.parametrize("size", [(3_000_000, 1), (2, 100_000)])
def test_of_an_endless_strip_the_middle_is_read(size: tuple[int, int], tmp_path: Path) -> None:
    """Scaled to 16 px as it is, the first would take 2 GB."""
    folder = plain_folders(tmp_path)
    width, height = size
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[height * 9 // 20 : -(-height * 11 // 20), width * 9 // 20 : -(-width * 11 // 20)] = 200
    Image.fromarray(pixels).save(folder / "cat" / "strip.png")
    data = load_data(str(tmp_path), 16)
    assert any((image == 200).all() for image in data.train.pixels)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint64])
def test_labels_of_any_integer_type(kind: type, tmp_path: Path) -> None:
    images = [encode(image) for image in noise(4)]
    file = write_parquet(tmp_path / "a.parquet", images, np.array([0, 1, 0, 1], dtype=kind))
    assert load_data(str(file), 8).train.labels.tolist() == [0, 1, 0, 1]


def test_the_names_of_many_files_are_no_path_that_is_too_long(tmp_path: Path) -> None:
    images = [encode(image) for image in noise(2)]
    names = [f"train-{n:05}-of-00060-{'x' * 40}.parquet" for n in range(60)]
    files = [write_parquet(tmp_path / name, images, [0, 1]) for name in names]
    assert len(load_data(",".join(map(str, files)), 8).train.labels) == 120
