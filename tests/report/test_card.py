"""Model cards: front matter that the hub reads, and names that stay names."""

import re
from typing import Any

import yaml

from mobilenas.report.card import export_card, network_card

RESULT = {
    "space": "digits",
    "arch": "e3k3_e6k35",
    "accuracy": 0.97,
    "last_accuracy": 0.96,
    "validation_images": 300,
    "test_accuracy": 0.95,
    "test_images": 400,
    "flops": 4_000_000,
    "params": 70_000,
    "memory": 160_000,
    "latency_ms": {"phone": 1.25},
}
CONFIG = {"epochs": 16.0, "optimizer": "momentum", "batch_size": 32}
SETTINGS = {"space": {"resolution": 32}, "config": CONFIG, "seed": 4, "inherit": None}
DATA = {"source": "pets", "train_images": 900, "classes": ["cat", "dog"]}
HOSTILE = "a`b\n---\nlicense: mit\n<img src=x>"


def front_matter(card: str) -> dict[str, Any]:
    found = re.match(r"---\n(.*?)\n---\n", card, flags=re.DOTALL)  # as the hub finds it
    assert found
    read: dict[str, Any] = yaml.safe_load(found[1])
    return read


def test_the_front_matter_is_what_the_hub_reads() -> None:
    card = network_card(RESULT, SETTINGS, DATA)
    about = front_matter(card)
    assert (about["license"], about["library_name"]) == ("unknown", "timm")
    (result,) = about["model-index"][0]["results"]
    assert result["metrics"] == [
        {"type": "accuracy", "name": "top-1 on 400 test images", "value": 0.95}
    ]
    assert "92.4 to 96.7 %" in card  # Wilson, 380 of 400
    assert "| latency on `phone`, predicted | 1.25 ms |" in card


def test_without_test_images_it_says_what_chose_the_epoch() -> None:
    card = network_card(RESULT | {"test_accuracy": None, "test_images": 0}, SETTINGS, DATA)
    assert "**97.00 %** on 300 validation images, by which its epoch was chosen" in card


def test_names_stay_names() -> None:
    hostile = network_card(RESULT | {"space": HOSTILE}, SETTINGS, DATA | {"source": HOSTILE})
    about = front_matter(hostile)
    assert about["license"] == "unknown"
    assert about["model-index"][0]["results"][0]["dataset"]["name"] == HOSTILE
    assert "`a'b --- license: mit <img src=x>`" in hostile


def test_an_exported_file_has_a_small_one() -> None:
    metadata = {
        "arch": "e3k3",
        "space": "digits",
        "flops_multiply_adds": "4000000",
        "input_layout": "NCHW",
        "input_resize": "crop",
        "classes": '["cat", "dog"]',
        "top1_accuracy": "0.95",
        "top1_accuracy_on": "400 test images",
    }
    check = {"images": 64, "parity": [{"max_rel": 1e-7}, {"max_rel": 3e-7}]}
    report = {"runtime": "onnxruntime", "dtype": "fp32", "size_bytes": 300_000}
    card = export_card(report | {"metadata": metadata, "verification": check}, "net.onnx")
    assert front_matter(card)["license"] == "unknown"
    assert "at most 3.0e-07 of the largest one, on 64 images" in card
    assert "95.00 % on 400 test images" in card
