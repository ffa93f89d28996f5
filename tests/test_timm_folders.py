"""Folders that timm's `save_for_hf` wrote: every command that takes a saved network takes them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import save_for_hf
from torch import nn

import mobilenas.timm  # noqa: F401  # registers the models
from mobilenas.base.errors import BadInput
from mobilenas.nn.saved import load_network
from mobilenas.space import load_space

Change = Callable[..., nn.Module]
DIGITS = "digits:width=0.5"
ARCH = "e3k35_e3k3_e6k57_e3k5_e3k37_e6k5"
OF_A_SPACE = {"model_name": "mobilenas", "space": DIGITS, "arch": ARCH}


def write(folder: Path, unlike_fresh: Change, safe: bool = True, **kwargs: Any) -> Any:
    """A network that timm created and saved."""
    model = timm.create_model(**kwargs)
    save_for_hf(unlike_fresh(model).eval(), folder, safe_serialization=safe)
    return model


@torch.no_grad()
@pytest.mark.parametrize(
    "kwargs",
    [
        OF_A_SPACE,
        OF_A_SPACE | {"space": load_space(DIGITS).to_dict(), "num_classes": 5, "in_chans": 3},
        {"model_name": "fairnas_a"},
        {"model_name": "mobilenas_mobilenetv2_100", "num_classes": 3},
    ],
)
@pytest.mark.parametrize("safe", [True, False])
def test_the_same_network_comes_back(
    kwargs: dict[str, Any], safe: bool, unlike_fresh: Change, tmp_path: Path
) -> None:
    model = write(tmp_path, unlike_fresh, safe, **kwargs)
    network, info = load_network(tmp_path)
    size = network.space.resolution
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network(x), model(x))
    assert network.space.num_classes == model.num_classes
    assert info.classes == tuple(map(str, range(model.num_classes)))
    cfg = model.pretrained_cfg
    assert (info.mean, info.std, info.crop) == (cfg["mean"], cfg["std"], cfg["crop_pct"])


def test_what_the_config_says_of_the_images_is_kept(unlike_fresh: Change, tmp_path: Path) -> None:
    names = tuple("abcdefghij")
    given = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "crop_pct": 0.9}
    given |= {"input_size": (3, 24, 24), "label_names": names}
    write(tmp_path, unlike_fresh, **OF_A_SPACE, pretrained_cfg_overlay=given)
    network, info = load_network(tmp_path)
    assert network.space.resolution == 24
    assert (info.classes, info.crop) == (names, 0.9)
    assert (info.mean, info.std) == (given["mean"], given["std"])


def test_another_preparation_is_said(
    unlike_fresh: Change, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, unlike_fresh, model_name="mobilenas_mobilenetv2_100", num_classes=2)
    load_network(tmp_path)
    assert "resized bilinearly and their centre is cut, not bicubic" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "resnet18"}, "architecture resnet18 is none of mobilenas"),
        ({"architecture": None}, "architecture: Input should be a valid string"),
        ({"model_args": {"space": DIGITS}}, "model_args must have space and arch"),
        ({"model_args": {"space": "s9", "arch": ARCH}}, "'s9' is neither"),
        ({"pretrained_cfg": {"mean": [0, 0, 0]}}, "pretrained_cfg.input_size: Field required"),
    ],
)
def test_a_config_that_does_not_say_what_it_must_is_refused(
    change: dict[str, Any], message: str, unlike_fresh: Change, tmp_path: Path
) -> None:
    write(tmp_path, unlike_fresh, **OF_A_SPACE)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BadInput, match=message) as error:
        load_network(tmp_path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_damaged_weights_are_refused(unlike_fresh: Change, tmp_path: Path) -> None:
    write(tmp_path, unlike_fresh, safe=False, **OF_A_SPACE)
    (tmp_path / "pytorch_model.bin").write_bytes(b"not weights")
    with pytest.raises(BadInput, match=r"pytorch_model\.bin is not a readable PyTorch file"):
        load_network(tmp_path)


@pytest.mark.parametrize(
    "content", [[1], torch.ones(2), {"classifier.bias": 3}, {1: torch.ones(2)}]
)
def test_weights_that_are_no_state_dict_are_refused(
    content: Any, unlike_fresh: Change, tmp_path: Path
) -> None:
    write(tmp_path, unlike_fresh, safe=False, **OF_A_SPACE)
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(BadInput, match=r"pytorch_model\.bin must hold a state dict"):
        load_network(tmp_path)


def test_a_detector_starts_from_such_a_folder(unlike_fresh: Change, tmp_path: Path) -> None:
    pytest.importorskip("mmdet")
    from mobilenas.detect.backbone import MobileNASBackbone

    model = write(tmp_path, unlike_fresh, **OF_A_SPACE)
    pretrained = {"type": "Pretrained", "checkpoint": str(tmp_path)}
    built = MobileNASBackbone(out_indices=(0, 1, 2), init_cfg=pretrained)
    built.init_weights()
    own = built.network.state_dict()
    assert all(torch.equal(own[name], model.state_dict()[name]) for name in own)
