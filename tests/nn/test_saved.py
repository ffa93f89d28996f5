"""Networks on disk: the same network comes back, and whatever else is refused by name."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import mobilenas
from mobilenas.base.errors import BadInput
from mobilenas.nn import Network
from mobilenas.nn.saved import Accuracy, NetworkInfo, load_network, save_network
from mobilenas.space import Space, load_any_space, load_space

SPACE = load_space("macro:width=0.125,resolution=16")
CLASSES = tuple(f"class {i}" for i in range(10))
INFO = NetworkInfo(CLASSES, (0.5, 0.45, 0.4), (0.2, 0.25, 0.3), 0.875, Accuracy(0.5, "8 images"))
Change = Callable[..., nn.Module]


def build(space: Space = SPACE, seed: int = 0) -> Network:
    generator = torch.Generator().manual_seed(seed)
    return Network(space, space.sample(np.random.default_rng(seed)), generator=generator)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_network(build(), tmp_path / "net", INFO)
    return tmp_path / "net"


@torch.no_grad()
def test_every_kind_of_network_comes_back(
    small_space: Space, unlike_fresh: Change, tmp_path: Path
) -> None:
    network = build(small_space)
    unlike_fresh(network).eval()
    classes = tuple(map(str, range(small_space.num_classes)))
    info = replace(INFO, classes=classes, accuracy=None)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    save_network(network, tmp_path, info)
    size = small_space.resolution
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    for path in (tmp_path, tmp_path / "model.safetensors"):
        loaded, found = load_network(path)
        assert (found, loaded.arch, loaded.training) == (info, network.arch, False)
        assert loaded.space.spec == small_space.spec
        state = loaded.state_dict()
        assert all(torch.equal(state[name], t) for name, t in network.state_dict().items())
        torch.testing.assert_close(loaded(images), network(images), rtol=1e-4, atol=1e-3)


def test_the_weights_alone_are_enough(folder: Path, tmp_path: Path) -> None:
    alone = shutil.move(folder / "model.safetensors", tmp_path / "elsewhere.safetensors")
    shutil.rmtree(folder)
    loaded, info = load_network(Path(alone))
    assert (loaded.arch, info) == (build().arch, INFO)


def test_a_network_with_other_classes_than_its_space(tmp_path: Path) -> None:
    network = build()
    network.reset_classifier(3)
    save_network(network, tmp_path, replace(INFO, classes=CLASSES[:3]))
    loaded, _ = load_network(tmp_path)
    assert loaded.num_classes == loaded.space.num_classes == 3
    network.reset_classifier(0)
    with pytest.raises(BadInput, match="num_classes: "):
        save_network(network, tmp_path, replace(INFO, classes=()))


def test_equal_networks_give_equal_bytes_in_another_process(folder: Path, tmp_path: Path) -> None:
    script = (
        "from pathlib import Path; import sys; from test_saved import *;"
        "save_network(build(), Path(sys.argv[1]), INFO)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    command = [sys.executable, "-c", script, str(tmp_path / "other")]
    subprocess.run(command, cwd=Path(__file__).parent, env=environment, check=True)
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "other" / name).read_bytes() == (folder / name).read_bytes()
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_config_is_what_timm_reads(folder: Path) -> None:
    from timm.models._hub import load_model_config_from_path, load_state_dict_from_path
    from timm.models._pretrained import PretrainedCfg

    given, name, arguments = load_model_config_from_path(str(folder))
    config = PretrainedCfg(**given)  # refuses keys that timm does not know
    network = build()
    assert name == "mobilenas"
    assert arguments == {"space": SPACE.to_dict(), "arch": str(network.arch)}
    assert (config.num_classes, config.input_size) == (10, [3, 16, 16])
    assert (config.mean, config.std) == (list(INFO.mean), list(INFO.std))
    assert (config.crop_pct, config.interpolation, config.crop_mode) == (
        0.875,
        "bilinear",
        "center",
    )
    assert config.label_names == list(CLASSES)
    for module in (config.first_conv, config.classifier):
        assert isinstance(network.get_submodule(str(module)), nn.Conv2d | nn.Linear)
    assert network.load_state_dict(load_state_dict_from_path(folder))


# --- what goes wrong while saving ----------------------------------------------------------------


@pytest.mark.parametrize("failing", [1, 2])
def test_a_full_disk_leaves_the_old_network(
    folder: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    calls = 0

    def sync(_: int) -> None:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("mobilenas.base.files.os.fsync", sync)
    with pytest.raises(OSError, match="No space left"):
        save_network(build(seed=1), folder, INFO)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_kill_leaves_a_whole_network_and_never_the_config_of_another(
    folder: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """The steps: config.json is taken away, the weights are put in place, then config.json."""
    old, new = build(), build(seed=1)
    replaced = 0
    replace_file = Path.replace

    def stop_at(self: Path, target: Path) -> Path:
        nonlocal replaced
        if replaced == step:
            raise KeyboardInterrupt
        replaced += 1
        return replace_file(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", stop_at)
        if step < 2:
            with pytest.raises(KeyboardInterrupt):
                save_network(new, folder, INFO)
        else:
            save_network(new, folder, INFO)
    loaded, _ = load_network(folder)
    assert loaded.arch == (new if step else old).arch
    assert (folder / "config.json").exists() == (step == 2)
    save_network(new, folder, INFO)
    assert load_network(folder)[0].arch == new.arch
    assert json.loads((folder / "config.json").read_text())["model_args"]["arch"] == str(new.arch)


def test_info_that_does_not_fit_is_refused_before_anything_is_written(
    tmp_path: Path, mixed_space: Space
) -> None:
    with pytest.raises(BadInput, match="9 class names; the network has 10 classes"):
        save_network(build(), tmp_path / "net", replace(INFO, classes=CLASSES[:-1]))
    grey = replace(INFO, classes=CLASSES[:3])
    with pytest.raises(BadInput, match="mean and std of 3 channels; the network takes 1"):
        save_network(build(mixed_space), tmp_path / "net", grey)
    assert not (tmp_path / "net").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": (0.5, float("nan"), 0.5)}, "mean .*: must be finite numbers"),
        ({"std": (0.2, 0.0, 0.2)}, "std .*: must be finite numbers above 0"),
        ({"crop": 0.0}, r"crop 0\.0: must be a share above 0"),
        ({"crop": 1.1}, r"crop 1\.1: "),
        ({"crop": float("nan")}, "crop nan: "),
        ({"accuracy": Accuracy(51.4, "1000 images")}, r"accuracy 51\.4: must be in 0\.\.1"),
    ],
)
def test_bad_info_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        replace(INFO, **change)


# --- what is not such a file ---------------------------------------------------------------------

Tensors = dict[str, Tensor]
Header = dict[str, Any]


def rewrite(path: Path, change: Callable[[Tensors, Header], object]) -> None:
    """Save a file of ours again, with other tensors or another header."""
    with safe_open(path, framework="pt") as opened:
        header = json.loads(opened.metadata()["mobilenas"])
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    change(tensors, header)
    save_file(tensors, path, {"mobilenas": json.dumps(header)})


def test_the_header_says_all(folder: Path) -> None:
    seen: list[Header] = []
    rewrite(folder / "model.safetensors", lambda _, header: seen.append(header))
    (header,) = seen
    assert header["mobilenas"] == mobilenas.__version__
    assert (header["space"], header["arch"]) == (SPACE.to_dict(), str(build().arch))
    assert header["info"]["accuracy"] == {"top1": 0.5, "images": "8 images"}


CHANGES: dict[str, tuple[Callable[[Tensors, Header], object], str]] = {
    "no tensor": (lambda t, h: t.pop("classifier.bias"), "tensor classifier.bias is missing"),
    "more tensors": (lambda t, h: t.update(x=torch.ones(1)), "tensor x is none of the network's"),
    "other shape": (
        lambda t, h: t.update({"classifier.bias": torch.ones(9)}),
        r"tensor classifier.bias is \[9\]; the network has \[10\]",
    ),
    "other arch": (lambda t, h: h.update(arch=str(build(seed=1).arch)), "tensor blocks"),
    "arch of another space": (lambda t, h: h.update(arch="e3k9_id"), "arch has 2 blocks"),
    "no arch": (lambda t, h: h.update(arch="a_b"), "arch block 1: 'a' is not a candidate"),
    "no key": (lambda t, h: h.pop("arch"), r"header mobilenas\.arch: Field required"),
    "unknown key": (lambda t, h: h.update(task="detection"), r"header mobilenas\.task: "),
    "bad space": (lambda t, h: h["space"].update(width="wide"), "width: "),
    "cells": (lambda t, h: h.update(space=CELLS), "is a space of cells"),
    "bad crop": (lambda t, h: h["info"].update(crop=2), r"header mobilenas\.info: crop 2\.0: "),
    "classes": (lambda t, h: h["info"].update(classes=["a"]), "1 class names; the network has 10"),
}
CELLS = load_any_space("nb101").to_dict()


@pytest.mark.parametrize("name", CHANGES)
def test_a_file_that_contradicts_itself_is_refused(folder: Path, name: str) -> None:
    change, message = CHANGES[name]
    path = folder / "model.safetensors"
    rewrite(path, change)
    for given in (folder, path):
        with pytest.raises(BadInput, match=message) as error:
            load_network(given)
        assert str(error.value).startswith(f"{path}: ")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_truncated_file_is_refused(folder: Path, keep: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(BadInput, match="is not a readable safetensors file: ") as error:
        load_network(folder)
    assert str(error.value).startswith(f"{path} ")
    assert "\n" not in str(error.value)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    for content in (b"PK\x03\x04 a zip", b'{"architecture": "mobilenas"}', b"\xff" * 64):
        (tmp_path / "foreign").write_bytes(content)
        with pytest.raises(BadInput, match=r"foreign is not a readable safetensors file"):
            load_network(tmp_path / "foreign")
    save_file({"weight": torch.ones(2)}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(BadInput, match=r"model\.safetensors is not of mobilenas: its header has"):
        load_network(tmp_path)
    save_file({"weight": torch.ones(2)}, tmp_path / "model.safetensors", {"mobilenas": "{torn"})
    with pytest.raises(BadInput, match=r"model\.safetensors: header mobilenas: Invalid JSON"):
        load_network(tmp_path)
    for missing in (tmp_path / "none", tmp_path / "none.safetensors"):
        with pytest.raises(BadInput, match=r"no saved network at .*none"):
            load_network(missing)
