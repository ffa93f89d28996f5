"""Bad sources: the one line that each kind of damage gets."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from make_sources import encode, noise, plain_folders, save, write_cifar10, write_parquet
from PIL import Image

from mobilenas.data import load_data
from mobilenas.errors import BadInput

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
    for crop in (0.0, -0.5, 1.5, float("nan")):
        with pytest.raises(BadInput, match=f"crop {crop}: a share above 0, up to 1"):
            load_data(str(root), 8, crop)


def test_damaged_cifar_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar10(tmp_path, monkeypatch)
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(b"no")
    with pytest.raises(BadInput, match=r"cifar-10-batches-py is damaged \(wrong MD5\)"):
        load_data(f"cifar10:{tmp_path}", 32)
