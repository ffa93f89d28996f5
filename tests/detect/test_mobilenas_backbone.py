"""The backbone computes what the network does, loads its weights, freezes what it says."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

pytest.importorskip("mmdet", reason="needs pip install '.[detect]'")

from mmdet.registry import MODELS
from tiny_detectors import ARCH, INFO, TINY

import mobilenas.timm
from mobilenas.base.errors import BadInput
from mobilenas.detect import MobileNASBackbone
from mobilenas.nn import Network
from mobilenas.nn.saved import load_network, save_network
from mobilenas.space import Space, space_from_dict

assert mobilenas.timm.mobilenas


def backbone(**changes: Any) -> MobileNASBackbone:
    return MobileNASBackbone(**{"space": TINY, "arch": ARCH, **changes})


def pretrained(path: Path) -> dict[str, str]:
    return {"type": "Pretrained", "checkpoint": str(path)}


def images(height: int = 64, width: int = 96) -> torch.Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(64, 96), (75, 101)])
def test_maps_are_those_of_the_saved_network(saved: Path, size: tuple[int, int]) -> None:
    network, _ = load_network(saved)
    built = MODELS.build(
        {"type": "MobileNASBackbone", "init_cfg": pretrained(saved), "out_indices": (2, 3, 4)}
    )
    built.init_weights()
    x = images(*size)
    with torch.no_grad():
        maps = built.eval()(x)
        wanted = network.forward_intermediates(x, [2, 3, 4], intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(maps, wanted, strict=True))
    assert [m.shape[1] for m in maps] == built.out_channels == [16, 24, 32]
    assert built.out_strides == [8, 16, 32]
    assert [m.shape[2] for m in maps] == [-(-size[0] // s) for s in built.out_strides]
    assert not hasattr(built.network.classifier, "weight")


def test_they_are_those_of_the_timm_model_too(saved: Path) -> None:
    built = backbone(init_cfg=pretrained(saved), out_indices=(1, 4))
    built.init_weights()
    model = timm.create_model(
        f"local-dir:{saved}", pretrained=True, features_only=True, out_indices=(1, 4)
    )
    with torch.no_grad():
        pairs = zip(built.eval()(images()), model.eval()(images()), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    assert model.feature_info.channels() == built.out_channels
    assert model.feature_info.reduction() == built.out_strides


def test_the_last_rows_alone_need_no_later_blocks() -> None:
    assert len(backbone(out_indices=(1, 2)).network.blocks) == 3


def test_maps_come_largest_first_however_they_are_asked_for() -> None:
    built = backbone(out_indices=(3, 1, 3))
    with torch.no_grad():
        maps = built.eval()(images())
    assert [m.shape[1] for m in maps] == built.out_channels == [12, 24]
    assert [64 // m.shape[2] for m in maps] == built.out_strides == [4, 16]


def test_mmdets_check_of_classes_does_not_take_it_for_a_head() -> None:
    assert not any(hasattr(part, "num_classes") for part in backbone().modules())


def test_space_and_arch_come_from_the_saved_network(saved: Path) -> None:
    built = MobileNASBackbone(init_cfg=pretrained(saved / "model.safetensors"))
    assert str(built.network.arch) == ARCH
    with pytest.raises(BadInput, match="needs space and arch"):
        MobileNASBackbone(arch=ARCH)


def test_weights_of_another_network_are_refused(saved: Path, tiny: Space, tmp_path: Path) -> None:
    other = backbone(arch=ARCH.replace("k35", "k3"), init_cfg=pretrained(saved))
    with pytest.raises(BadInput, match=f"{saved}.*e2k35.*backbone is e2k3_"):
        other.init_weights()
    # The same tensors, but another function.
    swish = backbone(space=TINY | {"activation": "swish"}, init_cfg=pretrained(saved))
    with pytest.raises(BadInput, match="is e2k35"):
        swish.init_weights()
    # Other classes, another resolution and name: the same backbone.
    space = space_from_dict(TINY | {"num_classes": 2, "resolution": 96, "name": "mine"})
    save_network(
        Network(space, space.parse(ARCH)),
        tmp_path,
        type(INFO)(("a", "b"), INFO.mean, INFO.std),
    )
    backbone(init_cfg=pretrained(tmp_path)).init_weights()


def test_another_checkpoint_loads_as_mmengine_does(tmp_path: Path) -> None:
    source = backbone()
    state = {f"backbone.{k}": v for k, v in source.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "detector.pth")
    built = backbone(init_cfg=pretrained(tmp_path / "detector.pth") | {"prefix": "backbone."})
    built.init_weights()
    assert all(torch.equal(v, source.state_dict()[k]) for k, v in built.state_dict().items())


@pytest.mark.parametrize("stages", range(-1, 6))
def test_frozen_stages_neither_train_nor_gather_statistics(stages: int) -> None:
    built = backbone(frozen_stages=stages)
    before = {k: v.clone() for k, v in built.state_dict().items()}
    built.train()
    sum(m.sum() for m in built(images().requires_grad_())).backward()
    ends = [0, 1, 2, 3, 5, 6]  # blocks up to each stage
    frozen = [] if stages < 0 else ["stem.", *(f"blocks.{b}." for b in range(ends[stages]))]
    for name, parameter in built.network.named_parameters():
        assert (parameter.grad is None) == name.startswith(tuple(frozen)), name
    for name, value in built.network.state_dict().items():
        if "running" in name:
            kept = torch.equal(value, before[f"network.{name}"])
            assert kept == name.startswith(tuple(frozen)), name


def test_norm_eval_keeps_statistics_but_trains_weights() -> None:
    built = backbone(norm_eval=True).train()
    before = {k: v.clone() for k, v in built.state_dict().items() if "running" in k}
    sum(m.sum() for m in built(images())).backward()
    assert all(torch.equal(built.state_dict()[k], v) for k, v in before.items())
    assert all(p.grad is not None for p in built.parameters())
    norms = [m for m in built.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not any(m.training for m in norms)
    assert built.training
    assert built.eval() is built


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frozen_stages": 6}, "frozen_stages 6: must be -1 to 5"),
        ({"out_indices": (1, 5)}, "there are 5 feature maps"),
        ({"arch": "e2k3"}, "arch has 1 blocks"),
        ({"space": "no such space"}, "no such space"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        backbone(**changes)


def test_published_weights_serve_as_a_backbone(data_root: Path, tmp_path: Path) -> None:
    from mobilenas.nn.published import convert

    start = data_root / "pretrained" / "proxyless-w0.3-r176_imagenet"
    network, info = convert(Path(f"{start}.json"), Path(f"{start}.npz"))
    save_network(network, tmp_path, info)
    built = MobileNASBackbone(init_cfg=pretrained(tmp_path))
    built.init_weights()
    assert [m.shape[-1] for m in built.eval()(images(160, 160))] == [40, 20, 10, 5]
