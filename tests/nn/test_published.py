"""Published ProxylessNAS weights become our network, array by array; other files are refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mobilenas.base.errors import BadInput
from mobilenas.cost import CostModel
from mobilenas.nn import Network
from mobilenas.nn.blocks import ConvBN, InvertedBottleneck
from mobilenas.nn.published import convert
from mobilenas.space import load_space

NARROW = "proxyless:channels=[8,8,8,16,24,24,40,48,64],resolution=32,bn_eps=0.001,num_classes=7"
Config = dict[str, Any]
Arrays = dict[str, np.ndarray]


def published(network: Network) -> tuple[Config, Arrays]:
    """The config and the arrays of a network as the publication has them."""
    arrays: Arrays = {}

    def add(name: str, conv: nn.Module, norm: nn.Module) -> None:
        arrays[f"{name}.conv.weight"] = conv.state_dict()["weight"].numpy()
        parts = ("weight", "bias", "running_mean", "running_var")
        arrays.update({f"{name}.bn.{part}": norm.state_dict()[part].numpy() for part in parts})

    def conv_layer(name: str, part: ConvBN) -> Config:
        add(name, part.conv, part.bn)
        conv = part.conv
        layer = {"name": "ConvLayer", "kernel_size": conv.kernel_size[0], "stride": conv.stride[0]}
        layer |= {"in_channels": conv.in_channels, "out_channels": conv.out_channels}
        return layer | {"act_func": "relu6", "ops_order": "weight_bn_act", "bias": False}

    blocks = []
    candidates = network.space.candidates_of(network.arch)
    triples = zip(network.blocks, network.space.layers, candidates, strict=True)
    for number, (block, layer, candidate) in enumerate(triples):
        sides = {"in_channels": layer.in_channels, "out_channels": layer.out_channels}
        shortcut = {"name": "IdentityLayer", "ops_order": "weight_bn_act"} | sides
        conv: Config = {"name": "ZeroLayer", "stride": 1}
        if isinstance(block, InvertedBottleneck):
            ((kernel,),) = candidate.kernels
            conv = {"name": "MBInvertedConvLayer", "kernel_size": kernel, "stride": layer.stride}
            conv |= sides | {"expand_ratio": candidate.expansion}
            name = f"blocks.{number}.mobile_inverted_conv"
            if candidate.expansion > 1:
                add(f"{name}.inverted_bottleneck", block.expand.conv, block.expand.bn)
            path = block.groups[0][f"k{kernel}"]
            add(f"{name}.depth_conv", path.conv, path.bn)
            add(f"{name}.point_linear", block.project, block.bns[0])
        added = shortcut if getattr(block, "residual", True) else None
        wrapper = {"name": "MobileInvertedResidualBlock"}
        blocks.append(wrapper | {"mobile_inverted_conv": conv, "shortcut": added})
    linear = network.classifier
    arrays |= {f"classifier.linear.{n}": t.numpy() for n, t in linear.state_dict().items()}
    classifier = {"name": "LinearLayer", "bias": True, "use_bn": False, "act_func": None}
    classifier |= {"in_features": linear.in_features, "out_features": linear.out_features}
    classifier |= {"dropout_rate": 0, "ops_order": "weight_bn_act"}
    config = {
        "name": "ProxylessNASNets",
        "resolution": network.space.resolution,
        "bn": {"momentum": 0.1, "eps": network.space.spec.bn_eps},
        "first_conv": conv_layer("first_conv", network.stem),
        "blocks": blocks,
        "feature_mix_layer": conv_layer("feature_mix_layer", network.conv_head),
        "classifier": classifier,
    }
    return config, arrays


def write(folder: Path, config: object, arrays: Arrays) -> tuple[Path, Path]:
    (folder / "net.json").write_text(json.dumps(config))
    np.savez(folder / "net.npz", **arrays)  # type: ignore[arg-type]
    return folder / "net.json", folder / "net.npz"


@pytest.fixture
def network(unlike_fresh: Callable[..., nn.Module]) -> Network:
    space = load_space(NARROW)
    arch = space.parse("_".join(["e3k5", "e6k7", "id", "e3k3"] * 5 + ["e6k3"]))
    built = Network(space, arch, generator=torch.Generator().manual_seed(0))
    unlike_fresh(built)
    return built.eval()


@torch.no_grad()
def test_a_published_network_is_ours(network: Network, tmp_path: Path) -> None:
    config, arrays = published(network)
    assert [b["shortcut"] is None for b in config["blocks"]][:3] == [True, True, False]
    assert config["blocks"][13]["mobile_inverted_conv"]["in_channels"] == 24  # keeps its shape ...
    assert config["blocks"][13]["shortcut"] is None  # ... and begins a stage
    found, info = convert(*write(tmp_path, config, arrays))
    assert (found.arch, found.space.layers) == (network.arch, network.space.layers)
    assert found.space.name == NARROW
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(found(images), network(images))
    assert (info.classes, info.crop) == (tuple("0123456"), 0.875)
    assert (info.mean, info.std, info.accuracy) == ((0.5,) * 3, (0.5,) * 3, None)
    counted = arrays | {"first_conv.bn.num_batches_tracked": np.array(5)}  # as in whole state dicts
    assert convert(*write(tmp_path, config, counted))[0].stem.bn.num_batches_tracked == 5
    named = tuple("abcdefg")
    assert convert(tmp_path / "net.json", tmp_path / "net.npz", named)[1].classes == named
    with pytest.raises(BadInput, match=r"6 class names; .*net\.json has 7 classes"):
        convert(tmp_path / "net.json", tmp_path / "net.npz", named[:6])


def inside(config: Config, *path: str | int) -> Any:
    for key in path:
        config = config[key]  # type: ignore[index]
    return config


CONV = "mobile_inverted_conv"
CONFIGS: dict[str, tuple[Callable[[Config], object], str]] = {
    "another net": (lambda c: c.update(name="MobileNetV3"), "name: Input should be"),
    "no resolution": (lambda c: c.pop("resolution"), "resolution: Field required"),
    "unknown key": (lambda c: c.update(quantised=True), "quantised: there is no such key"),
    "squeeze-excite": (
        lambda c: inside(c, "blocks", 1, CONV).update(use_se=True),
        rf"blocks\.1\.{CONV}\.MBInvertedConvLayer\.use_se: ",
    ),
    "activation": (lambda c: c["first_conv"].update(act_func="h_swish"), r"first_conv\.act_func: "),
    "stem": (lambda c: c["first_conv"].update(kernel_size=5), r"first_conv has .* 5, 2\), not "),
    "head": (lambda c: c["feature_mix_layer"].update(in_channels=9), "feature_mix_layer has"),
    "classifier": (lambda c: c["classifier"].update(in_features=9), "classifier has 9 inputs"),
    "kernel": (
        lambda c: inside(c, "blocks", 1, CONV).update(kernel_size=9),
        "arch block 1: kernels",
    ),
    "fixed kernel": (
        lambda c: inside(c, "blocks", 0, CONV).update(kernel_size=5),
        r"blocks\.0 is e1k5, which fixed layer 1 does not offer",
    ),
    "stride": (
        lambda c: inside(c, "blocks", 2, CONV).update(stride=2),
        r"blocks\.2 has .* \(8, 8, 2, True\), not \(8, 8, 1, True\)",
    ),
    "channels": (
        lambda c: inside(c, "blocks", 5, CONV).update(out_channels=99),
        r"blocks\.5 has .* 99",
    ),
    "a shortcut more": (
        lambda c: c["blocks"][13].update(shortcut=c["blocks"][14]["shortcut"]),
        r"blocks\.13 has .*True\), not \(24, 24, 1, False\)",
    ),
    "a shortcut less": (lambda c: c["blocks"][2].update(shortcut=None), r"blocks\.2 has .*False\)"),
    "nothing at all": (
        lambda c: c["blocks"][3].update(shortcut=None),
        r"blocks\.3: neither a layer nor a shortcut",
    ),
    "fewer blocks": (lambda c: c["blocks"].pop(), "21 blocks; networks of proxyless have 22"),
    "identity where the shape changes": (
        lambda c: c["blocks"][5].update({CONV: {"name": "ZeroLayer", "stride": 1}, **SHORT}),
        "arch block 5: the identity is not offered here",
    ),
}
SIDES = {"in_channels": 8, "out_channels": 16}
SHORT = {"shortcut": {"name": "IdentityLayer", "ops_order": "weight_bn_act"} | SIDES}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_of_another_network_is_refused(
    network: Network, tmp_path: Path, name: str
) -> None:
    change, message = CONFIGS[name]
    config, arrays = published(network)
    change(config)
    with pytest.raises(BadInput, match=message) as error:
        convert(*write(tmp_path, config, arrays))
    assert str(error.value).startswith(f"{tmp_path / 'net.json'}: ")
    assert "\n" not in str(error.value)


ARRAYS: dict[str, tuple[Callable[[Arrays], object], str]] = {
    "one less": (
        lambda a: a.pop("blocks.2.mobile_inverted_conv.depth_conv.bn.running_var"),
        r"array blocks\.2\.mobile_inverted_conv\.depth_conv\.bn\.running_var is missing",
    ),
    "more": (lambda a: a.update(x=np.ones(1), y=np.ones(1)), "2 arrays are left over, the first x"),
    "other shape": (
        lambda a: a.update({"classifier.linear.bias": np.ones(8, np.float32)}),
        r"array classifier\.linear\.bias is float32 \(8,\), it must be float32 \(7,\)",
    ),
    "doubles": (
        lambda a: a.update({"classifier.linear.bias": np.ones(7)}),
        r"array classifier\.linear\.bias is float64 \(7,\), it must be float32",
    ),
    "objects": (lambda a: a.update(x=np.array([{}])), "is not a readable .npz file: Object arrays"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_of_another_network_are_refused(network: Network, tmp_path: Path, name: str) -> None:
    change, message = ARRAYS[name]
    config, arrays = published(network)
    change(arrays)
    with pytest.raises(BadInput, match=message) as error:
        convert(*write(tmp_path, config, arrays))
    assert str(tmp_path / "net.npz") in str(error.value)
    assert "\n" not in str(error.value)


def test_files_of_another_kind_are_refused(network: Network, tmp_path: Path) -> None:
    config, arrays = published(network)
    json_path, npz_path = write(tmp_path, config, arrays)
    whole = npz_path.read_bytes()
    single = tmp_path / "single.npy"
    np.save(single, np.ones(3))
    for content in (whole[: len(whole) // 2], b"", b"no archive", single.read_bytes()):
        npz_path.write_bytes(content)
        with pytest.raises(BadInput, match=r"net\.npz is not a readable \.npz file: "):
            convert(json_path, npz_path)
    with pytest.raises(BadInput, match=r"no such file: .*none\.npz"):
        convert(json_path, tmp_path / "none.npz")
    json_path.write_text("{")
    with pytest.raises(BadInput, match=r"net\.json is not JSON"):
        convert(json_path, npz_path)
    json_path.write_text("[]")
    with pytest.raises(BadInput, match=r"net\.json: the config: "):
        convert(json_path, npz_path)


@pytest.mark.parametrize(
    ("name", "params", "flops", "width"),
    [("w0.25-r112", 569_600, 10_691_008, 0.25), ("w0.3-r176", 754_280, 38_282_216, None)],
)
def test_the_published_networks(
    data_root: Path, name: str, params: int, flops: int, width: float | None
) -> None:
    files = [
        data_root / "pretrained" / f"proxyless-{name}_imagenet.{end}" for end in ("json", "npz")
    ]
    network, _ = convert(*files)
    cost = CostModel(network.space)
    assert sum(p.numel() for p in network.parameters()) == params == cost.params(network.arch)
    assert cost.flops(network.arch) == flops
    if width is not None:
        scaled = load_space(f"proxyless:width={width},resolution=112,bn_eps=0.001")
        assert network.space.layers == scaled.layers
    else:
        assert network.space.name.startswith("proxyless:channels=[16,8,16,16,24,32,64,96,384],")
