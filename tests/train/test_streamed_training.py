"""Trainings on images that are read when they are needed, from files of every kind."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import TINY_ARCH, TINY_SPACE, contents
from make_sources import encode, samples, save, write_parquet, write_tar
from PIL import Image

from mobilenas.base.errors import BadInput
from mobilenas.data import EncodedImages, sources
from mobilenas.stages.export import Int8, Target, run_export_trained
from mobilenas.stages.train import (
    Asked,
    create_network_run,
    finish_train,
    train_network,
    training_settings,
)
from mobilenas.train.config import NetworkConfig
from mobilenas.train.network_task import NetworkTask
from mobilenas.train.networks import NetworkRun, open_network_run
from mobilenas.train.trainer import Trainer

SMALL: dict[str, Any] = {"batch_size": 16, "validate_images": 30, "device": "cpu", "lr": 0.05}
SMALL |= {"stream": True, "crop": "resize", "min_area": 0.3, "eval_crop": 0.9, "epochs": 6}
COLOURS = ((200, 60, 60), (60, 200, 60), (60, 60, 200))
RNG = np.random.default_rng(0)
# Noise around the colour of the class, of many sizes.
PICTURES = [
    np.clip(RNG.normal(COLOURS[i % 3], 40, (*RNG.integers(18, 30, 2), 3)), 0, 255).astype(np.uint8)
    for i in range(150)
]
LABELS = [i % 3 for i in range(150)]

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def in_folders(root: Path) -> None:
    for i, picture in enumerate(PICTURES):
        part = "train" if i < 120 else "test"
        save(root / part / "rgb"[LABELS[i]] / f"{i}.png", Image.fromarray(picture))


def in_parquet(root: Path) -> None:
    encoded = [encode(picture) for picture in PICTURES]
    write_parquet(root / "train.parquet", encoded[:120], LABELS[:120])
    write_parquet(root / "test.parquet", encoded[120:], LABELS[120:])


def in_tars(root: Path) -> None:
    encoded = [encode(picture) for picture in PICTURES]
    write_tar(root / "train.tar", samples(encoded[:120], LABELS[:120]))
    write_tar(root / "test.tar", samples(encoded[120:], LABELS[120:]))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("folders")
    in_folders(root)
    return root


def create(folder: Path, data: Path, **changes: Any) -> NetworkRun:
    config = NetworkConfig.model_validate(SMALL | changes)
    settings = training_settings(Asked(TINY_SPACE, TINY_ARCH, data=str(data), seed=3))
    return create_network_run(folder, settings.model_copy(update={"config": config}))


def finish(run: NetworkRun) -> dict[str, Any]:
    train_network(run)
    return finish_train(run)


def results(folder: Path) -> dict[str, bytes]:
    """What has to be the same, however the training went."""
    kept = ("log.jsonl", "splits.json", "checkpoint.pt", "result.json", "network/", "last/")
    return {name: x for name, x in contents(folder).items() if name.startswith(kept)}


def test_a_stream_trains_resumes_and_does_not_depend_on_workers(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = create(tmp_path / "whole", folders, workers=0)
    result = finish(whole)
    assert isinstance(whole.images.data.train, EncodedImages)
    assert (result["validation_images"], result["test_images"]) == (30, 30)
    assert result["test_accuracy"] > 0.8

    class Killed(Exception):
        pass

    def dies(task: NetworkTask, trainer: Trainer, n: int) -> None:
        if n == 13:
            raise Killed
        original(task, trainer, n)

    original = NetworkTask.step
    killed = create(tmp_path / "killed", folders, workers=1, checkpoint_seconds=0)
    with monkeypatch.context() as patch:
        patch.setattr(NetworkTask, "step", dies)
        with pytest.raises(Killed):
            train_network(killed)
    assert finish(open_network_run(killed.folder.path)) == result
    assert results(killed.folder.path) == results(whole.folder.path)
    assert len(results(whole.folder.path)) == 9

    report = run_export_trained(killed.folder.path, Target()).to_dict()
    assert report["verification"]["images"] == 30
    assert report["metadata"]["input_short_side"] == "18"  # 16 / 0.9
    assert report["metadata"]["top1_accuracy_on"] == "30 test images"


@pytest.mark.parametrize("write", [in_parquet, in_tars])
def test_every_layout_is_streamed(write: Callable[[Path], None], tmp_path: Path) -> None:
    data = tmp_path / "data"
    write(data)
    run = create(tmp_path / "run", data, epochs=0.4, workers=1)
    assert isinstance(run.images.data.train, EncodedImages)
    assert train_network(run).steps == 2
    reopened = open_network_run(run.folder.path)
    assert reopened.images.data.classes == ("0", "1", "2")
    result = finish(reopened)
    assert (result["test_images"], result["validation_images"]) == (30, 30)


def test_files_that_have_changed_since_are_refused(tmp_path: Path) -> None:
    in_folders(tmp_path / "data")
    run = create(tmp_path / "run", tmp_path / "data")
    image = tmp_path / "data" / "train" / "r" / "0.png"
    image.rename(image.with_name("new.png"))
    with pytest.raises(BadInput, match=r"the images of .* are not those that .* was made from"):
        open_network_run(run.folder.path)


def test_an_image_that_is_damaged_stops_training_and_is_named(tmp_path: Path) -> None:
    in_folders(tmp_path / "data")
    run = create(tmp_path / "run", tmp_path / "data", workers=1)
    first = run.images.splits.train[0]
    path = Path(run.images.data.train.name(first))  # type: ignore[union-attr]
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(BadInput, match=path.name) as refused:
        train_network(run)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("part", ["test", "validate"])
def test_damaged_validation_and_test_images_are_found_before_the_training(
    tmp_path: Path, part: str
) -> None:
    in_folders(tmp_path / "data")
    whole = create(tmp_path / "whole", tmp_path / "data")
    data, splits = whole.images.data, whole.images.splits
    name = data.train.name(splits.validate[3]) if part == "validate" else data.test.name(2)  # type: ignore[union-attr]
    Path(name).write_bytes(Path(name).read_bytes()[:50])
    with pytest.raises(BadInput, match=f"{Path(name).name}: cannot read .*damaged=skip") as refused:
        create(tmp_path / "run", tmp_path / "data")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_damaged_images_can_be_left_out_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_folders(tmp_path / "data")
    for name in ("train/r/0.png", "train/g/1.png", "test/b/122.png"):
        (tmp_path / "data" / name).write_bytes(b"torn")
    asked = Path(f"{tmp_path / 'data'};damaged=skip")
    run = create(tmp_path / "run", asked, epochs=1)
    found = run.folder.facts["data"]
    assert (found["train_images"], found["test_images"]) == (118, 29)
    assert found["left_out"] == {"damaged images": 3}
    monkeypatch.setattr(sources, "try_all", None)  # they are not looked for again
    reopened = open_network_run(run.folder.path)
    assert reopened.images.data.found.damaged == found["damaged"]
    result = finish(reopened)
    assert (result["test_images"], result["validation_images"]) == (29, 30)


def test_very_few_images_train_and_can_be_exported(tmp_path: Path) -> None:
    for i, picture in enumerate(PICTURES[:9]):
        save(tmp_path / "data" / "rgb"[LABELS[i]] / f"{i}.png", Image.fromarray(picture))
    few = {"validate_images": None, "batch_size": 4, "epochs": 1, "stream": False}
    run = create(tmp_path / "run", tmp_path / "data", **few)
    assert len(run.images.splits.validate) == 1
    finish(run)
    assert run_export_trained(run.folder.path, Target()).verification.images == 9
    int8 = run_export_trained(run.folder.path, Target(int8=Int8()))
    assert int8.metadata["top1_accuracy_on"] == "9 training and validation images"
    shutil.rmtree(tmp_path / "data" / "r")
    with pytest.raises(BadInput, match="6 training images: there must be 8 or more"):
        create(tmp_path / "none", tmp_path / "data", **few)
