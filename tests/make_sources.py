"""Small sources of every layout, for the tests of what they load as and of what is refused."""

import hashlib
import io
import json
import pickle
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from torchvision import datasets

RNG = np.random.default_rng(0)
RED, BLUE = (200, 10, 20), (10, 20, 200)


def encode(pixels: np.ndarray, form: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form)
    return stream.getvalue()


def noise(count: int, size: int = 8) -> np.ndarray:
    return RNG.integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def save(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def plain_folders(root: Path, size: tuple[int, int] = (8, 8)) -> Path:
    for name, colour in (("cat", RED), ("dog", BLUE)):
        for i in range(3):
            save(root / name / f"{i}.png", Image.new("RGB", size, colour))
    return root


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


def write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    """A shard as WebDataset writes it: the members in their order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as opened:
        for name, content in members:
            header = tarfile.TarInfo(name)
            header.size = len(content)
            opened.addfile(header, io.BytesIO(content))
    return path


def samples(
    images: Sequence[bytes], labels: Sequence[int], first: int = 0
) -> list[tuple[str, bytes]]:
    """The members of a shard with these images and labels, numbered from `first`."""
    members = []
    for i, (image, label) in enumerate(zip(images, labels, strict=True), start=first):
        members += [(f"{i:06d}.cls", b"%d" % label), (f"{i:06d}.png", image)]
    return members


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
