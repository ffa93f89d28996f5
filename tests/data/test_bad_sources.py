"""Bad sources: the one line that each kind of damage gets."""

import gzip
import io
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from make_sources import (
    encode,
    noise,
    plain_folders,
    samples,
    save,
    write_cifar10,
    write_parquet,
    write_tar,
)
from PIL import Image

from mobilenas.base.errors import BadInput
from mobilenas.data import load_data, open_data

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


def folder_with_16_bits_a_colour(root: Path) -> str:
    """A PNG, as Pillow writes none: its header and rows by hand."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        end = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + end

    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    rows = zlib.compress(4 * (b"\0" + 12 * b"\x0f\xff"))
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    (plain_folders(root) / "cat" / "2.png").write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    return str(root)


def file_given_twice(root: Path) -> str:
    file = parquet(GOOD, [0, 1, 0, 1])(root)
    return f"{file},{root}/./{Path(file).name}"


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


def two_folders(root: Path) -> str:
    return f"{plain_folders(root / 'a')},{plain_folders(root / 'b')}"


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


def tar(*members: tuple[str, bytes], classes: str | None = None) -> Callable[[Path], str]:
    """Two good samples, then these members."""

    def build(root: Path) -> str:
        if classes:
            (root / "classes.txt").write_text(classes)
        return str(write_tar(root / "a.tar", [*samples(GOOD[:2], [0, 1]), *members]))

    return build


def tar_without_its_end(keep: int) -> Callable[[Path], str]:
    """A shard of which only the first bytes are left."""

    def build(root: Path) -> str:
        file = root / "a.tar"
        write_tar(file, samples(GOOD, [0, 1, 0, 1]))
        file.write_bytes(file.read_bytes()[:keep])
        return str(root)

    return build


def tar_with_damaged_header(root: Path) -> str:
    file = write_tar(root / "a.tar", samples(GOOD, [0, 1, 0, 1]))
    content = bytearray(file.read_bytes())
    place = content.index(b"000002.cls")
    content[place : place + 8] = b"\xff" * 8
    file.write_bytes(content)
    return str(root)


def sparse_tar(**headers: str) -> Callable[[Path], str]:
    """A shard with a member that is stored sparse, as GNU tar writes it in pax headers."""

    def build(root: Path) -> str:
        file = root / "a.tar"
        with tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as opened:
            for name, content in samples(GOOD, [0, 1, 0, 1]):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                if name == "000002.png":
                    member.pax_headers = {f"GNU.sparse.{k}": v for k, v in headers.items()}
                opened.addfile(member, io.BytesIO(content))
        return str(root)

    return build


def compressed_tar(root: Path) -> str:
    file = write_tar(root / "a.tar", samples(GOOD, [0, 1, 0, 1]))
    file.write_bytes(gzip.compress(file.read_bytes()))
    return str(root)


def tar_pair(root: Path) -> str:
    write_tar(root / "train-0.tar", samples(GOOD[:2], [0, 1]))
    write_tar(root / "val-0.tar", samples(GOOD[2:], [0, 2]))
    return str(root)


ERRORS: list[tuple[Callable[[Path], str], str]] = [
    (lambda root: f"{root}/none", r"data '.*/none' does not exist; it must be digits, a folder"),
    (lambda root: "", "data '': a name in it is empty; it must be digits, a folder"),
    (lambda root: f"{root}/a.parquet,", r"data '.*a\.parquet,': a name in it is empty"),
    (lambda root: ";label=kind", "data ';label=kind': a name in it is empty"),
    (lambda root: f"{plain_folders(root)};label=kind", r"label=kind is a column of metadata\.csv"),
    (lambda root: f"{plain_folders(root)};image=x", "image= is for parquet files, .* has none"),
    (lambda root: f"{tar()(root)};label=kind", "image= and label= are for tables, not tar files"),
    (lambda root: f"{tar()(root)};image=x", "image= and label= are for tables, not tar files"),
    (tar(classes="ant\nbee\nant\n"), r"classes\.txt: 'ant' is there 2 times; a class must have"),
    (two_folders, r"data '.*/a' is a folder; give one folder, or files"),
    (lambda root: f"cifar100:{root};label=coarse", "label= are for tables, cifar100 has none"),
    (lambda root: "cifar10", "data 'cifar10' does not exist; .* cifar10:DIR"),
    (lambda root: str(root), "neither class folders nor .*parquet files in it"),
    (folder_without_images, "emu: no images in this class folder"),
    (folder_with_damage, r"dog/1\.png: cannot read the image \(.+\)"),
    (folder_with_text, r"cat/2\.png: cannot read the image \(not an image\)"),
    (folder_with_16_bits, r"cat/2\.png: .*I;16; there must be 8 bits a channel"),
    (folder_with_16_bits_a_colour, r"cat/2\.png: .*RGB;16\w*; there must be 8 bits a channel"),
    (file_given_twice, r"a\.parquet' is given more than once"),
    (folder_with_one_class, "training images of 1 class; there must be at least 2"),
    (
        folder_with_other_test_classes,
        r"/test/fox/0\.png: class 'fox' has no images in the training part",
    ),
    (parquet([*GOOD[:3], b"x"], [0, 1, 0, 1]), r"a\.parquet, row 3: cannot read .*not an image"),
    (parquet([*GOOD[:3], None], [0, 1, 0, 1]), r"a\.parquet, row 3: no image bytes"),
    (parquet(GOOD, [0, 1, None, 1]), r"a\.parquet, row 2: label is null"),
    (
        parquet(GOOD, [0, 1, -1, 1]),
        r"a\.parquet, row 2: label -1 is out of range; .* must be 0\.\.2",
    ),
    (parquet(GOOD, [1, 2, 3, 1]), r"row 2: label 3 is out of range; there are 3 classes"),
    (parquet(GOOD, [0, 1, 2, 0], names=["ant", "bee"]), r"row 2: label 2 .* must be 0\.\.1"),
    (parquet(GOOD, ["a", "b", "a", "b"]), r"column label holds string; it must hold integers"),
    (parquet(GOOD, [0, 0, 0, 0]), "training images of 1 class; there must be at least 2"),
    (parquet([], pa.array([], pa.int64())), r"a\.parquet: no rows"),
    (
        parquet_with_column("label", [0] * 4),
        r"img \(or image\) and label, not only image, label_",
    ),
    (parquet_with_column("image", GOOD), r"a\.parquet: there must .* not only label, image_"),
    (parquet_pair([0, 5, 0, 1], None), r"test\.parquet, row 1: label 5 is out of range"),
    (parquet_pair([0, 1, 0, 1], ["ant", "cow"]), r"test\.parquet: class names differ .*train\.par"),
    (not_parquet, r"a\.parquet: cannot be read as parquet"),
    (truncated_parquet, r"a\.parquet: cannot be read as parquet"),
    (tar(("x.png", GOOD[0])), r"a\.tar, x\.png: no x\.cls beside it"),
    (tar(("d/x.cls", b"0")), r"a\.tar, d/x\.cls: no image beside it \(jpg"),
    (tar(("x.png", GOOD[0]), ("x.cls", b"cat")), r"a\.tar, x\.cls: 'cat' is no class; it must be"),
    (
        tar(("x.png", GOOD[0]), ("x.cls", b"-1")),
        r"a\.tar, x\.png: label -1 is out of range; .* 0\.\.",
    ),
    (tar(("x.png", GOOD[0]), ("x.cls", b"-2")), r"a\.tar, x\.cls: '-2' is no class; it must be"),
    (
        tar(("x.png", GOOD[0]), ("x.cls", b"3")),
        r"a\.tar, x\.png: label 3 is out of range; .* 3 cla",
    ),
    (
        tar(("x.png", GOOD[0]), ("x.cls", b"2"), classes="ant\nbee\n"),
        r"a\.tar, x\.png: label 2 is out of range; there are 2 classes",
    ),
    (tar(("x.png", GOOD[0]), ("x.jpg", GOOD[1])), r"a\.tar: two images x\.png and x\.jpg"),
    (tar(("x.png", b"no"), ("x.cls", b"1")), r"a\.tar, x\.png: cannot read .*\(not an image\)"),
    (lambda root: str(write_tar(root / "a.tar", [("x.txt", b"")])), r"a\.tar: no images in it"),
    (tar_without_its_end(0), r"a\.tar: cannot be read as a tar file \(empty file\)"),
    (tar_without_its_end(100), r"a\.tar: cannot be read as a tar file \(truncated header\)"),
    (tar_without_its_end(1600), r"a\.tar: cannot be read as a tar file \(unexpected end"),
    (tar_without_its_end(2148), r"a\.tar: cannot be read as a tar file \(damaged or cut off"),
    (tar_without_its_end(4 * 2048), r"a\.tar: cannot be read as a tar file \(damaged or cut off"),
    (sparse_tar(map="0,8", size="8"), r"a\.tar, 000002\.png: is stored sparse"),
    (sparse_tar(map="x", size="y"), r"a\.tar: cannot be read as a tar file \(invalid literal"),
    (sparse_tar(major="1", minor="0", realsize="9"), r"a\.tar: cannot be read as a tar file"),
    (tar_with_damaged_header, r"a\.tar: cannot be read as a tar file \(damaged or cut off"),
    (compressed_tar, r"a\.tar: cannot be read as a tar file"),
    (tar_pair, r"val-0\.tar, 000001\.png: label 2 is out of range"),
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


ON_DISK = [(build, message) for build, message in ERRORS if not message.startswith("cifar-")]


@pytest.mark.parametrize(("build", "message"), ON_DISK, ids=[message for _, message in ON_DISK])
def test_an_index_refuses_the_same_and_a_damaged_image_when_it_is_read(
    tmp_path: Path, build: Callable[[Path], str], message: str
) -> None:
    def read_all(source: str) -> None:
        data = open_data(source)
        for part in (data.train, data.test):
            for index in range(len(part) if part else 0):
                part.image(index)

    source = build(tmp_path)
    with pytest.raises(BadInput, match=message) as caught:
        read_all(source)
    assert "\n" not in str(caught.value)


def test_what_is_always_in_memory_is_not_opened() -> None:
    for source in ("digits", "cifar10:somewhere"):
        with pytest.raises(BadInput, match=f"{source} is always held in memory; class folders"):
            open_data(source)


def test_an_image_column_of_another_type_is_refused(tmp_path: Path) -> None:
    table = pa.table({"image": ["a.png", "b.png"], "label": [0, 1]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(BadInput, match="column image holds string; it must hold bytes"):
        load_data(str(tmp_path), 8)


def test_more_than_the_memory_is_refused_before_anything_is_decoded(tmp_path: Path) -> None:
    root = plain_folders(tmp_path)
    (root / "cat" / "0.png").write_bytes(b"would be an error if it were read")
    with pytest.raises(BadInput, match=r"6 images of 1000000x1000000 pixels take 18000\.0 GB"):
        load_data(str(root), 1_000_000)
    with pytest.raises(BadInput, match="resolution 0"):
        load_data(str(root), 0)
    for crop in (0.0, -0.5, 1.5, float("nan")):
        with pytest.raises(BadInput, match=f"crop {crop}: must be a share above 0, up to 1"):
            load_data(str(root), 8, crop)


def test_damaged_cifar_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar10(tmp_path, monkeypatch)
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(b"no")
    with pytest.raises(BadInput, match=r"cifar-10-batches-py is damaged \(wrong MD5\)"):
        load_data(f"cifar10:{tmp_path}", 32)


@pytest.mark.parametrize(
    "stored", [b"[" * 100_000, b"\xff", b'{"info": {"features": {"label": {"names": 3}}}}']
)
def test_metadata_of_parquet_that_are_none_are_refused(stored: bytes, tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", GOOD, [0, 1, 0, 1])
    table = pq.read_table(file)
    pq.write_table(table.replace_schema_metadata({"huggingface": stored}), file)
    with pytest.raises(BadInput, match=r"a\.parquet.* its huggingface metadata"):
        load_data(str(file), 8)


@pytest.mark.parametrize("stored", [b"[]", b'{"info": 3}', b'{"info": {"features": {"label": 1}}}'])
def test_metadata_of_parquet_may_say_nothing_of_classes(stored: bytes, tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", GOOD, [0, 1, 0, 1])
    table = pq.read_table(file)
    pq.write_table(table.replace_schema_metadata({"huggingface": stored}), file)
    assert load_data(str(file), 8).classes == ("0", "1")


def test_a_folder_named_digits_is_not_the_built_in_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain_folders(tmp_path / "digits")
    monkeypatch.chdir(tmp_path)
    assert len(load_data("digits", 8).classes) == 10
    assert len(load_data("./digits", 8).classes) < 10
