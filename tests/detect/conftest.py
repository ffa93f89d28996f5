"""The small network saved, and images with boxes."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tiny_detectors import ARCH, INFO, TINY

from mobilenas.nn import Network
from mobilenas.nn.saved import save_network
from mobilenas.space import Space, space_from_dict


@pytest.fixture(scope="session", autouse=True)
def quiet() -> None:
    """Without this mmengine prints the origin of every weight of every detector."""
    if importlib.util.find_spec("mmengine"):
        from mmengine.logging import MMLogger

        MMLogger.get_current_instance().setLevel("ERROR")


@pytest.fixture(scope="session")
def tiny() -> Space:
    return space_from_dict(TINY)


@pytest.fixture(scope="session")
def tiny_yaml(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The space as a file, which is a reference to it."""
    path = tmp_path_factory.mktemp("space") / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return str(path)


@pytest.fixture(scope="session")
def saved(tiny: Space, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved network whose weights all do something."""
    network = Network(tiny, tiny.parse(ARCH), generator=torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for part in network.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.weight.uniform_(0.5, 1.5, generator=generator)
                part.bias.normal_(0, 0.3, generator=generator)
                part.running_mean.normal_(0, 0.3, generator=generator)  # type: ignore[union-attr]
                part.running_var.uniform_(0.5, 2.0, generator=generator)  # type: ignore[union-attr]
    folder = tmp_path_factory.mktemp("saved")
    save_network(network, folder, INFO)
    return folder


@pytest.fixture(scope="session")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Six images of 96 px with one bright square of 48 px each, of one of two categories."""
    from mobilenas.data.coco import CocoData, CocoPart

    folder = tmp_path_factory.mktemp("coco")
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(6):
        x, y = map(int, rng.integers(0, 48, 2))
        pixels = rng.integers(0, 60, (96, 96, 3), dtype=np.uint8)
        pixels[y : y + 48, x : x + 48, i % 2] = 255
        Image.fromarray(pixels).save(folder / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": 96, "height": 96})
        annotations.append(
            {"id": i + 1, "image_id": i, "category_id": 7 - i % 2, "bbox": [x, y, 48, 48]}
            | {"area": 48 * 48, "iscrowd": 0}
        )
    # ids neither from 0 nor ascending: labels are the positions in this list
    categories = [{"id": 7, "name": "red square"}, {"id": 6, "name": "green square"}]
    file = folder / "annotations.json"
    content = {"images": images, "annotations": annotations, "categories": categories}
    file.write_text(json.dumps(content))
    part = CocoPart(file, folder)
    return CocoData(part, part, ("red square", "green square"))
