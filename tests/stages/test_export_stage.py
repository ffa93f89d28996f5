"""Which images an export is calibrated, chosen, proved and judged on."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import ALONE, TINY_ARCH, TINY_SPACE

from mobilenas.data import ImageData, Images
from mobilenas.nn.saved import load_network
from mobilenas.stages import export
from mobilenas.stages.export import Int8, Target, run_export_saved, run_export_trained
from mobilenas.stages.train import (
    Asked,
    create_network_run,
    finish_train,
    train_network,
    training_settings,
)
from mobilenas.train.networks import NetworkRun


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> NetworkRun:
    overrides = [item.removeprefix("--set=") for item in ALONE if item.startswith("--set=")]
    asked = Asked(TINY_SPACE, TINY_ARCH, seed=3, preset="digits", overrides=tuple(overrides))
    run = create_network_run(tmp_path_factory.mktemp("export") / "run", training_settings(asked))
    train_network(run)
    finish_train(run)
    return run


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What `export_network` is given, in place of its work."""
    given: list[dict[str, Any]] = []

    def note(network: Any, info: Any, path: Path, images: Any, labels: Any, **how: Any) -> None:
        given.append({"path": path, "images": images, "labels": labels, **how})

    monkeypatch.setattr(export, "export_network", note)
    monkeypatch.setattr(export, "store_beside", lambda report: None)
    return given


def keys(pixels: np.ndarray) -> set[bytes]:
    return {image.tobytes() for image in pixels}


def test_of_a_run(run: NetworkRun, exports: list[dict[str, Any]]) -> None:
    run_export_trained(run.folder.path, Target())
    run_export_trained(run.folder.path, Target(int8=Int8()))
    run_export_trained(run.folder.path, Target(int8=Int8(images=30)))
    data = run.images.data
    assert isinstance(data, ImageData)
    assert data.test is not None
    train, validate = (
        keys(data.train.pixels[rows])
        for rows in (run.images.splits.train, run.images.splits.validate)
    )
    plain, int8, fewer = exports
    assert keys(plain["images"]) <= validate
    assert (plain["path"].name, int8["path"].name) == (
        f"{TINY_ARCH}.onnx",
        f"{TINY_ARCH}-int8.onnx",
    )
    assert keys(int8["images"]) == keys(data.test.pixels)
    assert int8["images_are"] == "355 test images"
    assert len(int8["calibration"].ranges) == 128
    assert keys(int8["calibration"].ranges) <= train
    assert keys(int8["calibration"].choice.pixels) == validate
    assert len(fewer["calibration"].ranges) == 30


def test_of_a_run_without_test_images(
    run: NetworkRun, exports: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = replace(run.images, data=replace(run.images.data, test=None))
    bare = replace(run, images=images)
    monkeypatch.setattr(export, "open_network_run", lambda _, **places: bare)
    run_export_trained(run.folder.path, Target(int8=Int8()))
    (int8,) = exports
    assert int8["images_are"] == "30 validation images, by which its epoch was chosen"
    assert not keys(int8["images"]) & keys(int8["calibration"].choice.pixels)


def test_of_a_saved_network(run: NetworkRun, exports: list[dict[str, Any]]) -> None:
    run_export_saved(run.network, "digits", Target(int8=Int8()), None)
    (int8,) = exports
    crop = load_network(run.network)[1].crop
    assert crop == 1
    test, train = run.images.data.test, run.images.data.train
    assert isinstance(train, Images)
    assert isinstance(test, Images)
    assert keys(int8["images"]) == keys(test.pixels)
    ranges, choice = int8["calibration"].ranges, int8["calibration"].choice.pixels
    assert keys(ranges) | keys(choice) <= keys(train.pixels)
    assert (len(ranges), len(choice)) == (128, 500)
