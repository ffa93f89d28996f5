"""Streamed batches: what they hold, and that workers, rows and a resumption change nothing."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from make_sources import encode, noise, samples, save, write_parquet, write_tar
from PIL import Image

from mobilenas.base.errors import BadInput
from mobilenas.data import (
    Augment,
    Images,
    Loader,
    Part,
    Preparation,
    TrainingBatches,
    load_data,
    loader,
    open_data,
)

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
NONE = Augment(crop_padding=0, flip=False, cutout=0)
STRONG = Augment(
    crop="resize", cutout=3, auto_augment="rand-m9-mstd0.5", color_jitter=0.3, random_erasing=0.5
)
RNG = np.random.default_rng(5)
# Of many sizes; the label is the number of the image.
PICTURES = [RNG.integers(0, 256, (*RNG.integers(14, 40, 2), 3), dtype=np.uint8) for _ in range(30)]

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def in_folders(root: Path) -> None:
    for i, picture in enumerate(PICTURES):
        save(root / f"{i:02d}" / "a.png", Image.fromarray(picture))


def in_parquet(root: Path) -> None:
    write_parquet(root / "a.parquet", [encode(picture) for picture in PICTURES], range(30))


def in_tars(root: Path) -> None:
    encoded = [encode(picture) for picture in PICTURES]
    write_tar(root / "0.tar", samples(encoded[:11], range(11)))
    write_tar(root / "1.tar", samples(encoded[11:], range(11, 30), first=11))


LAYOUTS = [in_folders, in_parquet, in_tars]


@pytest.fixture(params=LAYOUTS)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    write: Callable[[Path], None] = request.param
    write(tmp_path)
    return str(tmp_path)


@pytest.fixture
def tars(tmp_path: Path) -> Part:
    in_tars(tmp_path)
    return open_data(str(tmp_path)).train


def make(
    part: Part, augment: Augment = STRONG, *, resolution: int = 12, workers: int = 0, **changes: Any
) -> TrainingBatches:
    loader = Loader(Preparation(resolution, MEAN, STD), workers=workers)
    asked: dict[str, Any] = {"batch_size": 8, "seed": 3} | changes
    return loader.training(part, np.arange(len(part)), augment=augment, **asked)


def taken(batches: TrainingBatches, start: int, stop: int) -> list[bytes]:
    """Images and labels of each step, as bytes."""
    found = batches.iterate(start, stop)
    return [images.numpy().tobytes() + labels.numpy().tobytes() for images, labels in found]


@pytest.fixture
def transforms(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every transform of single images that is made."""
    made: list[object] = []
    original = Augment.transform
    monkeypatch.setattr(Augment, "transform", lambda *given: made.append(given) or original(*given))
    return made


def test_whole_batches_are_changed_where_that_can_do_what_is_asked(
    tars: Part, transforms: list[object]
) -> None:
    images = Images(noise(30, 12), np.arange(30))
    make(images, Augment())
    assert transforms == []
    for part, changes in ((images, {}), (images, {"augment": Augment(), "resolution": 10})):
        make(part, **changes)  # type: ignore[arg-type]
    make(tars, Augment())
    assert len(transforms) == 3


def test_workers_are_not_started_for_whole_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a worker was started")

    monkeypatch.setattr(loader, "DataLoader", refuse)
    images = Images(noise(30, 12), np.arange(30))
    assert len(taken(make(images, Augment(), workers=2), 0, 3)) == 3
    with pytest.raises(AssertionError, match="worker"):
        taken(make(images, workers=2), 0, 3)


@pytest.mark.parametrize("workers", [0, 2])
def test_types_shapes_and_memory_layout(tars: Part, workers: int) -> None:
    ((images, labels),) = make(tars, workers=workers).iterate(4, 5)
    assert (images.shape, images.dtype) == ((8, 3, 12, 12), torch.float32)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert (labels.shape, labels.dtype) == ((8,), torch.int64)


def test_without_augmentation_batches_are_those_of_images_in_memory(source: str) -> None:
    loaded, opened = load_data(source, 12).train, open_data(source).train
    in_memory, streamed = make(loaded, NONE), make(opened, NONE)
    assert in_memory.steps_per_epoch == streamed.steps_per_epoch == 3
    for one, other in zip(in_memory.iterate(2, 8), streamed.iterate(2, 8), strict=True):
        np.testing.assert_allclose(one[0], other[0], atol=1e-5)
        assert torch.equal(one[1], other[1])


def test_images_in_memory_and_on_disk_are_augmented_alike(tmp_path: Path) -> None:
    pixels = noise(30, 12)
    write_tar(tmp_path / "a.tar", samples([encode(x) for x in pixels], range(30)))
    in_memory = make(Images(pixels, np.arange(30)))
    assert taken(in_memory, 0, 3) == taken(make(open_data(str(tmp_path)).train), 0, 3)


def test_padding_shows_windows_of_the_padded_image(tmp_path: Path) -> None:
    pixels = RNG.integers(1, 256, (8, 9, 9, 3), dtype=np.uint8)
    encoded = samples([encode(image) for image in pixels], range(8))
    part = open_data(str(write_tar(tmp_path / "a.tar", encoded))).train
    augment = Augment(crop_padding=2, flip=True, cutout=0)
    batches = Loader(Preparation(9, (0, 0, 0), (1 / 255,) * 3)).training(
        part, np.arange(8), batch_size=8, seed=0, augment=augment
    )
    padded = np.pad(pixels, ((0, 0), (2, 2), (2, 2), (0, 0)))
    seen = set()
    for images, labels in batches.iterate(0, 30):
        shown = images.round().permute(0, 2, 3, 1).numpy().astype(np.uint8)
        for image, label in zip(shown, labels.tolist(), strict=True):
            windows = {
                padded[label, y : y + 9, x : x + 9][:, ::step].tobytes(): (y, x, step)
                for y in range(5)
                for x in range(5)
                for step in (1, -1)
            }
            seen.add(windows[image.tobytes()])
    assert len(seen) == 50


def test_the_number_of_workers_changes_nothing(source: str) -> None:
    part = open_data(source).train
    alone = taken(make(part), 1, 6)
    assert len(set(alone)) == 5
    for workers in (1, 3):
        assert taken(make(part, workers=workers), 1, 6) == alone


def test_a_resumed_run_sees_the_batches_of_an_unbroken_one(source: str) -> None:
    part = open_data(source).train
    whole = taken(make(part), 0, 7)
    for start in (1, 3, 6):
        assert taken(make(part), start, 7) == whole[start:]
    used = make(part)
    next(used.iterate(0, 7))
    assert taken(used, 2, 4) == whole[2:4]
    copied = pickle.loads(pickle.dumps(used))  # as a worker process gets it where nothing is forked
    assert taken(copied, 2, 4) == whole[2:4]


@pytest.mark.parametrize("augment", [STRONG, Augment(2, True, 5)])
def test_processes_that_share_a_batch_see_what_one_alone_does(augment: Augment) -> None:
    part = Images(noise(30, 12), np.arange(30))
    shares = [np.array([0, 1, 2]), np.array([7, 3]), np.arange(4, 7)]
    whole = make(part, augment).iterate(1, 5)
    shared = [make(part, augment, rows=rows).iterate(1, 5) for rows in shares]
    for (images, labels), *parts in zip(whole, *shared, strict=True):
        for rows, (some, their_labels) in zip(shares, parts, strict=True):
            assert some.numpy().tobytes() == images[rows].numpy().tobytes()
            assert torch.equal(their_labels, labels[rows])
            assert some.is_contiguous(memory_format=torch.channels_last)


def test_seeds_steps_and_positions_differ() -> None:
    part = Images(np.repeat(noise(1, 12), 30, axis=0), np.arange(30))
    ((one, _), (two, _)) = make(part).iterate(0, 2)
    ((other, _),) = make(part, seed=4).iterate(0, 1)
    assert len({image.numpy().tobytes() for image in (*one, *two, *other)}) == 24


@pytest.mark.parametrize("workers", [0, 1])
def test_the_global_generators_are_neither_read_nor_moved(tars: Part, workers: int) -> None:
    torch.manual_seed(1)
    states = str(np.random.get_state()), torch.get_rng_state()  # noqa: NPY002
    first = taken(make(tars, workers=workers), 0, 2)
    list(make_evaluation(tars, workers=workers))
    assert str(np.random.get_state()) == states[0]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[1])
    torch.manual_seed(2)
    assert taken(make(tars, workers=workers), 0, 2) == first


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("write", LAYOUTS)
def test_an_image_damaged_since_is_named_in_one_line(
    tmp_path: Path, write: Callable[[Path], None], workers: int
) -> None:
    write(tmp_path)
    part = open_data(str(tmp_path)).train
    for file in tmp_path.rglob("*.*"):
        content = file.read_bytes()
        if file.suffix != ".parquet":
            content = content.replace(b"IDAT", b"gone")
        file.write_bytes(content.replace(b"PNG", b"GNP"))
    with pytest.raises(
        BadInput, match=r"(a\.png|\.tar, 0000\d\d\.png|a\.parquet, row \d+): ca"
    ) as it:
        list(make(part, workers=workers).iterate(0, 3))
    assert "\n" not in str(it.value)
    with pytest.raises(BadInput, match="cannot read"):
        list(make_evaluation(part, workers=workers))


# --- evaluation ---------------------------------------------------------------------------------

INDICES = np.array([4, 2, 9, 11, 29, 0, 17])


def make_evaluation(part: Part, **changes: Any) -> Any:
    """Batches of INDICES. changes: crop, batch_size, workers."""
    loader = Loader(
        Preparation(12, MEAN, STD, changes.get("crop", 1.0)), workers=changes.get("workers", 0)
    )
    return loader.evaluation(part, INDICES, changes.get("batch_size", 3))


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_sees_the_very_pixels_of_images_in_memory(source: str, workers: int) -> None:
    loaded = load_data(source, 12).train
    expected = list(make_evaluation(loaded))
    for part in (open_data(source).train, loaded):
        found = list(make_evaluation(part, workers=workers))
        assert [len(labels) for _, labels in found] == [3, 3, 1]
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one[0], other[0])
            assert torch.equal(one[1], other[1])
            assert one[0].is_contiguous(memory_format=torch.channels_last)


def test_evaluation_crops_the_centre_of_the_scaled_image(tars: Part) -> None:
    found = torch.cat([images for images, _ in make_evaluation(tars, crop=0.8)])
    for image, index in zip(found, INDICES, strict=True):
        height, width, _ = PICTURES[index].shape
        size = (15 * width // min(height, width), 15 * height // min(height, width))
        scaled = Image.fromarray(PICTURES[index]).resize(size, Image.Resampling.BILINEAR)
        left, top = round((size[0] - 12) / 2), round((size[1] - 12) / 2)
        pixels = np.asarray(scaled.crop((left, top, left + 12, top + 12)))
        expected = (pixels / 255 - np.array(MEAN)) / np.array(STD)
        np.testing.assert_allclose(image.permute(1, 2, 0), expected, atol=1e-5)


@pytest.mark.parametrize(("name", "value"), [("crop", 0.0), ("crop", 1.1), ("batch_size", 0)])
def test_bad_numbers_are_refused(tars: Part, name: str, value: float) -> None:
    with pytest.raises(BadInput, match=f"{name} {value}: it must be "):
        next(make_evaluation(tars, **{name: value}))
    if name == "batch_size":
        with pytest.raises(BadInput, match=r"batch_size 0: must be 1\.\.30"):
            make(tars, batch_size=0)
