"""Real ImageNet weights through our modules: the accuracies that are known for them, exactly."""

import sys
from pathlib import Path

import pytest

from mobilenas.data import Images
from mobilenas.export import evaluate, export_network
from mobilenas.export.evaluate import all_logits, open_classifier, ranked_right
from mobilenas.nn.saved import save_network

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from pretrained import nearest, published, sample


def right(path: Path, images: Images) -> tuple[int, int]:
    return ranked_right(all_logits(open_classifier(path), images), images.labels)


def test_the_network_at_112_pixels_in_torch_and_onnxruntime(
    data_root: Path, tmp_path: Path
) -> None:
    saved, exported = tmp_path / "net", tmp_path / "net.onnx"
    network, info = published(data_root, "w0.25-r112")
    found = nearest(sample(data_root), 112)
    save_network(network, saved, info)
    export_network(network, info, exported, found.pixels[:16], found.labels[:16])
    assert right(saved, found) == right(exported, found) == (514, 750)
    result = evaluate(exported, str(sample(data_root)))  # rounds as torchvision does
    assert (result.n, result.short_side) == (1000, 128)
    assert (result.top1, result.top5) == pytest.approx((0.518, 0.752), abs=1e-9)


def test_the_network_at_176_pixels(data_root: Path, tmp_path: Path) -> None:
    network, info = published(data_root, "w0.3-r176")
    save_network(network, tmp_path, info)
    assert right(tmp_path, nearest(sample(data_root), 176)) == (600, 830)
