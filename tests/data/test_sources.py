"""Sources: what each layout loads as, and the one line that each kind of damage gets."""

import hashlib
import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from torchvision import datasets, transforms

from mobilenas.data import load_data
from mobilenas.errors import BadInput

RNG = np.random.default_rng(0)
RED, BLUE = (200, 10, 20), (10, 20, 200)


def encode(pixels: np.ndarray, form: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form)
    return stream.getvalue()


def noise(count: int, size: int = 8) -> np.ndarray:
    return RNG.integers(0, 256, (count, size, size, 3), dtype=np.uint8)


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


def save(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def plain_folders(root: Path, size: tuple[int, int] = (8, 8)) -> Path:
    for name, colour in (("cat", RED), ("dog", BLUE)):
        for i in range(3):
            save(root / name / f"{i}.png", Image.new("RGB", size, colour))
    return root


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


def test_test_wins_over_val_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain_folders(tmp_path / "train")
    plain_folders(tmp_path / "val")
    save(tmp_path / "test" / "cat" / "a.png", Image.new("RGB", (8, 8)))
    save(tmp_path / "test" / "dog" / "a.png", Image.new("RGB", (8, 8)))
    data = load_data(str(tmp_path), 8)
    assert data.test is not None
    assert len(data.test.labels) == 2
    assert "val is not used" in caplog.text


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


@pytest.mark.parametrize("size", [(40, 24), (24, 41), (10, 7), (7, 11), (16, 16), (19, 16), (1, 5)])
def test_scale_and_crop_as_torchvision_does(tmp_path: Path, size: tuple[int, int]) -> None:
    plain_folders(tmp_path)
    image = Image.fromarray(RNG.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    save(tmp_path / "cat" / "a.png", image)
    ours = load_data(str(tmp_path), 16).train.pixels[3]
    theirs = transforms.CenterCrop(16)(transforms.Resize(16)(image))
    np.testing.assert_array_equal(ours, np.asarray(theirs))


# --- parquet ------------------------------------------------------------------------------------


def write_parquet(
    path: Path,
    images: Any,
    labels: Any,
    *,
    column: str = "img",
    nested: bool = True,
    names: list[str] | None = None,
) -> Path:
    """A file as Hugging Face's `datasets` writes it."""
    cells = [{"bytes": image, "path": None} for image in images] if nested else images
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())]) if nested else pa.binary()
    table = pa.table({column: pa.array(cells, kind), "label": pa.array(labels)})
    if names:
        features = {"label": {"names": names, "_type": "ClassLabel"}}
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        table = table.replace_schema_metadata(metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=3)
    return path


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
    np.testing.assert_array_equal(data.test.pixels, pixels[4:])

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


def write_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Five images in torchvision's layout, and torchvision told their checksums."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    pixels = RNG.integers(0, 256, (5, 3, 32, 32), dtype=np.uint8)

    def write(name: str, content: dict[str, Any]) -> str:
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    train = {"data": pixels[:4].reshape(4, -1), "labels": [0, 1, 2, 1]}
    test = {"data": pixels[4:].reshape(1, -1), "labels": [2]}
    meta = write("batches.meta", {"label_names": ["plane", "car", "bird"]})
    reader = datasets.CIFAR10
    monkeypatch.setattr(reader, "train_list", [["data_batch_1", write("data_batch_1", train)]])
    monkeypatch.setattr(reader, "test_list", [["test_batch", write("test_batch", test)]])
    monkeypatch.setattr(reader, "meta", {**reader.meta, "md5": meta})
    return pixels.transpose(0, 2, 3, 1)


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


def test_damaged_cifar_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar10(tmp_path, monkeypatch)
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(b"no")
    with pytest.raises(BadInput, match=r"cifar-10-batches-py is damaged \(wrong MD5\)"):
        load_data(f"cifar10:{tmp_path}", 32)


# --- errors -------------------------------------------------------------------------------------

GOOD = [encode(image) for image in noise(4)]


def folder_without_images(root: Path) -> str:
    (plain_folders(root) / "emu").mkdir()
    return str(root)


def folder_with_damage(root: Path) -> str:
    (plain_folders(root) / "dog" / "1.png").write_bytes(GOOD[0][:60])
    return str(root)


def folder_with_text(root: Path) -> str:
    (plain_folders(root) / "cat" / "2.png").write_text("not pixels")
    return str(root)


def folder_with_16_bits(root: Path) -> str:
    save(plain_folders(root) / "cat" / "2.png", Image.fromarray(np.zeros((8, 8), dtype=np.uint16)))
    return str(root)


def folder_with_one_class(root: Path) -> str:
    save(root / "cat" / "2.png", Image.new("RGB", (8, 8)))
    return str(root)


def folder_with_other_test_classes(root: Path) -> str:
    plain_folders(root / "train")
    save(root / "test" / "cat" / "0.png", Image.new("RGB", (8, 8)))
    save(root / "test" / "fox" / "0.png", Image.new("RGB", (8, 8)))
    return str(root)


def parquet(images: Any, labels: Any, **changes: Any) -> Callable[[Path], str]:
    return lambda root: str(write_parquet(root / "a.parquet", images, labels, **changes))


def parquet_with_column(name: str, values: list[Any]) -> Callable[[Path], str]:
    def build(root: Path) -> str:
        columns = {"image": GOOD, "label": [0, 1, 0, 1]}
        columns.pop(name)
        pq.write_table(pa.table({**columns, f"{name}_": values}), root / "a.parquet")
        return str(root / "a.parquet")

    return build


def parquet_pair(test_labels: list[int], test_names: list[str] | None) -> Callable[[Path], str]:
    def build(root: Path) -> str:
        names = test_names and ["ant", "bee"]
        write_parquet(root / "train.parquet", GOOD, [0, 1, 0, 1], names=names)
        write_parquet(root / "test.parquet", GOOD, test_labels, names=test_names)
        return str(root)

    return build


def not_parquet(root: Path) -> str:
    (root / "a.parquet").write_text("nothing of the sort")
    return str(root / "a.parquet")


def truncated_parquet(root: Path) -> str:
    file = write_parquet(root / "a.parquet", GOOD, [0, 1, 0, 1])
    file.write_bytes(file.read_bytes()[:-50])
    return str(file)


ERRORS: list[tuple[Callable[[Path], str], str]] = [
    (lambda root: f"{root}/none", r"data '.*/none' does not exist; wanted digits, a folder"),
    (lambda root: "", "data '' does not exist"),
    (lambda root: "cifar10", "data 'cifar10' does not exist; .* cifar10:DIR"),
    (lambda root: str(root), "neither class folders nor .*parquet files in it"),
    (folder_without_images, "emu: no images in this class folder"),
    (folder_with_damage, r"dog/1\.png: cannot read the image \(.+\)"),
    (folder_with_text, r"cat/2\.png: cannot read the image \(not an image\)"),
    (folder_with_16_bits, r"cat/2\.png: .*I;16; 8 bits a channel are wanted"),
    (folder_with_one_class, "training images of 1 class; at least 2"),
    (folder_with_other_test_classes, r"/test: classes differ .*/train \(first: dog\)"),
    (parquet([*GOOD[:3], b"x"], [0, 1, 0, 1]), r"a\.parquet, row 3: cannot read .*not an image"),
    (parquet([*GOOD[:3], None], [0, 1, 0, 1]), r"a\.parquet, row 3: no image bytes"),
    (parquet(GOOD, [0, 1, None, 1]), r"a\.parquet, row 2: label is null"),
    (parquet(GOOD, [0, 1, -1, 1]), r"a\.parquet, row 2: label -1 is out of range; .* 0\.\.2 is"),
    (parquet(GOOD, [1, 2, 3, 1]), r"row 2: label 3 is out of range; there are 3 classes"),
    (parquet(GOOD, [0, 1, 2, 0], names=["ant", "bee"]), r"row 2: label 2 .* 0\.\.1 is wanted"),
    (parquet(GOOD, ["a", "b", "a", "b"]), r"column label holds string; integers are wanted"),
    (parquet(GOOD, [0, 0, 0, 0]), "training images of 1 class; at least 2"),
    (parquet([], pa.array([], pa.int64())), r"a\.parquet: no rows"),
    (
        parquet_with_column("label", [0] * 4),
        r"img \(or image\) and label .* there are image, label_",
    ),
    (parquet_with_column("image", GOOD), r"a\.parquet: columns img .* there are label, image_"),
    (parquet_pair([0, 5, 0, 1], None), r"test\.parquet, row 1: label 5 is out of range"),
    (parquet_pair([0, 1, 0, 1], ["ant", "cow"]), r"test\.parquet: class names differ .*train\.par"),
    (not_parquet, r"a\.parquet: cannot be read as parquet"),
    (truncated_parquet, r"a\.parquet: cannot be read as parquet"),
    (lambda root: f"{parquet(GOOD, [0, 1, 0, 1])(root)},b.parquet", r"data 'b\.parquet' does not"),
    (
        lambda root: f"cifar10:{root}",
        r"cifar-10-batches-py/data_batch_1 does not exist; unpack http",
    ),
    (lambda root: f"cifar100:{root}", r"cifar-100-python/train does not exist; unpack http"),
]


@pytest.mark.parametrize(("build", "message"), ERRORS, ids=[message for _, message in ERRORS])
def test_bad_sources_get_one_line_that_names_them(
    tmp_path: Path, build: Callable[[Path], str], message: str
) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        load_data(build(tmp_path), 8)
    assert "\n" not in str(caught.value)


def test_an_image_column_of_another_type_is_refused(tmp_path: Path) -> None:
    table = pa.table({"image": ["a.png", "b.png"], "label": [0, 1]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(BadInput, match="column image holds string; bytes are wanted"):
        load_data(str(tmp_path), 8)


def test_more_than_the_memory_is_refused_before_anything_is_decoded(tmp_path: Path) -> None:
    root = plain_folders(tmp_path)
    (root / "cat" / "0.png").write_bytes(b"would be an error if it were read")
    with pytest.raises(BadInput, match=r"6 images of 1000000x1000000 pixels take 18000\.0 GB"):
        load_data(str(root), 1_000_000)
    with pytest.raises(BadInput, match="resolution 0"):
        load_data(str(root), 0)


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
