"""Values that no command can use: each is refused at once by one line that names it."""

import os
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from mobilenas.base.errors import BadInput
from mobilenas.base.files import read_json, read_jsonl
from mobilenas.base.plain import parse_json, parse_yaml
from mobilenas.cost.memory import check_fits
from mobilenas.nn.supernet import Supernet
from mobilenas.report.plots import plot_front
from mobilenas.space import load_any_space, load_space
from mobilenas.strategies.methods import load_search_config
from mobilenas.train.config import load_network_config, load_supernet_config
from mobilenas.train.supernets import SupernetSettings, new_supernet

LONG, DEEP = "9" * 5000, "[" * 100_000
LAUGHS = "a: &a [1]\n" + "".join(
    f"{b}: &{b} [{', '.join(10 * [f'*{a}'])}]\n" for a, b in pairwise("abcdefghijkl")
)
ODD = ["true", "-1", "9" * 400, LONG, ".inf", ".nan", "[1]", "{a: 1}", "word", "2001-99-99", DEEP]
COUNTS = ["batch_size", "limit", "validate_images", "workers", "crop_padding", "cutout"]
RATES = ["lr", "momentum", "weight_decay", "clip", "warmup_epochs", "decay_epochs", "epochs"]
RATES += ["validate_every", "mixup", "color_jitter", "distill_temperature", "checkpoint_seconds"]
SIZES = ["width", "resolution", "num_classes", "in_channels", "divisor", "stem.channels"]
SIZES += ["head.channels", "squeeze_excite", "bn_eps"]
LARGE = [
    *("s1:width=10000", "s1:width=1e300", "s1:divisor=10000000", "s1:resolution=1000000000"),
    *("s1:num_classes=1000000000", "s1:in_channels=1000000000", "s1:stem.channels=1000000000"),
    *("s1:head.channels=1000000000", "s1:candidates.groups=40"),
    *("s1:candidates.expansions=[1000000000]", "nb101:stacks=1000", "nb101:cells=1000000000"),
    *("nb101:channels=1000000000", "nb101:resolution=100000000"),
]


def refused(words: str, call: Callable[..., object], *arguments: object) -> None:
    start = time.process_time()
    with pytest.raises(BadInput) as caught:
        call(*arguments)
    assert time.process_time() - start < 30  # built, a network of such a size takes far longer
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 800


@pytest.mark.parametrize("value", ODD, ids=lambda value: value[:12])
@pytest.mark.parametrize("key", COUNTS + RATES)
def test_a_value_of_a_training_is_refused(key: str, value: str) -> None:
    refused(key, load_network_config, "digits", [f"{key}={value}"])


@pytest.mark.parametrize("value", ODD[:-1], ids=lambda value: value[:12])
@pytest.mark.parametrize("key", SIZES)
def test_a_value_of_a_space_is_refused(key: str, value: str) -> None:
    refused(key, load_space, f"digits:{key}={value}")


@pytest.mark.parametrize("reference", LARGE)
def test_a_space_beyond_measure_is_refused(reference: str) -> None:
    refused(reference.partition(":")[2].partition("=")[0].split(".")[-1], load_any_space, reference)


def test_blocks_without_number_are_refused(tmp_path: Path) -> None:
    data = load_space("s1").to_dict()
    data["stages"] = [{"channels": 8, "blocks": 10**9}]
    path = tmp_path / "space.yaml"
    path.write_text(yaml.safe_dump(data))
    refused("stages.0.blocks", load_space, str(path))
    data["stages"] = [{"channels": 8 + 8 * i, "blocks": 1000} for i in range(200)]
    path.write_text(yaml.safe_dump(data))
    refused("candidates", load_space, str(path))


@pytest.mark.parametrize(
    "key", ["passes", "warmup_largest_passes", "shrink_passes", "sandwich_random"]
)
def test_a_budget_beyond_measure_is_refused(key: str) -> None:
    refused(key, load_supernet_config, "quick", [f"{key}=1e300"])


@pytest.mark.parametrize(
    ("strategy", "key"),
    [
        *(("parsec", "samples"), ("rome", "samples"), ("zarts", "samples")),
        *(("zarts", "inner_steps"), ("shapley", "orders"), ("svge", "labels")),
        *(("svge", "round_archs"), ("svge", "vae_steps")),
    ],
)
def test_repeats_beyond_measure_are_refused(strategy: str, key: str) -> None:
    refused(key, load_search_config, strategy, "cpu", [f"{key}=1000000000"])


def test_what_does_not_fit_into_memory_is_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    refused("takes 1,048,576 GiB", check_fits, "a network", 2**50)
    monkeypatch.setattr(Supernet, "__init__", lambda *_, **__: pytest.fail("it was built"))
    wide = load_space("s1:width=8,candidates.expansions=[63,64]").to_dict()
    config = load_supernet_config("quick", [])
    settings = SupernetSettings(space=wide, data="digits", seed=0, config=config)
    monkeypatch.setattr(os, "sysconf", lambda name: 1024)
    refused("GiB", new_supernet, settings)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\na: 2", "a stands twice"),
        ("&x [*x]", "aliases"),
        (LAUGHS, "aliases"),
        (
            LAUGHS.replace("[", "{<<: [").replace("]", "]}").replace("{<<: [1]}", "{x: 1}"),
            "aliases",
        ),
        ("!!python/object/apply:os.system [id]", "python"),
        ("!!int x", "not YAML"),
        ("!!timestamp x", "not YAML"),
        ("a: " + DEEP, "deeply"),
        ("# " + "x" * 300_000, "at most"),
    ],
    ids=lambda text: text[:12],
)
def test_a_text_is_no_yaml(text: str, words: str) -> None:
    refused(words, parse_yaml, text, "a.yaml")


def test_aliases_of_yaml_are_taken() -> None:
    text = "a: &x {lr: 1, decay: [2]}\nb: *x\nc: {<<: *x, lr: 3}"
    same = {"lr": 1, "decay": [2]}
    assert parse_yaml(text, "a.yaml") == {"a": same, "b": same, "c": same | {"lr": 3}}


@pytest.mark.parametrize(
    "text", [b"[" * 100_000, b"[" * 60 + b"]" * 60, LONG.encode(), b'"\\ud800"']
)
def test_a_text_is_no_json(text: bytes) -> None:
    refused("a.json", parse_json, text, "a.json")


def test_what_has_no_end_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        refused("is not a file", read_json, path)
        refused("is not a file", read_jsonl, path)


@pytest.mark.parametrize("name", ["cost $5 or ^{2$", "$x_{$", "\\frac{", "plain"])
def test_a_picture_takes_any_name(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"generation": 1, "flops": 10.0 * i, "accuracy": 0.1 * i} for i in (1, 2)]
    plot_front(tmp_path / "front.png", rows, rows, {}, name)
    assert (tmp_path / "front.png").is_file()
    assert caplog.messages == []


def test_a_picture_that_fails_is_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plot_front(tmp_path / "front.png", [{}], [{}], {}, "s")
    assert len(caplog.messages) == 1
    assert "front.png is not drawn" in caplog.text
