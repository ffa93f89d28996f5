"""The published ImageNet weights of small ProxylessNAS networks, as networks of `proxyless`.

Read are the net config (.json) and the state dict, as arrays by their names (.npz), of the
backbones in the ProxylessNAS repository (mit-han-lab/proxylessnas, proxyless_gaze: w0.25 at 112 px,
w0.3 at 176 px). They take inputs scaled to -1..1 and are evaluated on the central 87.5 %.
"""

import re
import zipfile
import zlib
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator

from mobilenas.base.errors import BadInput, one_line
from mobilenas.base.files import read_json
from mobilenas.base.settings import Record, validated
from mobilenas.nn.network import Network
from mobilenas.nn.saved import NetworkInfo
from mobilenas.space import IDENTITY, Arch, Candidate, Space, load_space

SPACE = "proxyless"
CROP = 0.875
MEAN = STD = (0.5, 0.5, 0.5)

# Our names of modules and theirs.
_NAMES = (
    (r"^stem\.", "first_conv."),
    (r"^conv_head\.", "feature_mix_layer."),
    (r"^classifier\.", "classifier.linear."),
    (r"^(blocks\.\d+)\.", r"\1.mobile_inverted_conv."),
    (r"\.expand\.", ".inverted_bottleneck."),
    (r"\.groups\.0\.k\d\.", ".depth_conv."),
    (r"\.project\.", ".point_linear.conv."),
    (r"\.bns\.0\.", ".point_linear.bn."),
)

_LARGEST = 1 << 31  # bytes of a state dict
# What numpy raises for a file that is none of its own.
_DAMAGES = (
    *(AttributeError, EOFError, MemoryError, OSError, RuntimeError, TypeError, ValueError),
    *(zipfile.BadZipFile, zlib.error),
)

Arrays = dict[str, NDArray[Any]]


# A key or value that is not known would mean another network, so all are records.
class _Conv(Record):
    name: Literal["ConvLayer"]
    kernel_size: int
    stride: int
    in_channels: int
    out_channels: int
    dilation: Literal[1] = 1
    groups: Literal[1] = 1
    bias: Literal[False] = False
    has_shuffle: Literal[False] = False
    use_bn: Literal[True] = True
    act_func: Literal["relu6"]
    dropout_rate: float = 0
    ops_order: Literal["weight_bn_act"]


class _Bottleneck(Record):
    name: Literal["MBInvertedConvLayer"]
    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int
    expand_ratio: int
    mid_channels: None = None
    act_func: Literal["relu6"] = "relu6"
    use_se: Literal[False] = False


class _Zero(Record):
    name: Literal["ZeroLayer"]
    stride: Literal[1]


class _Shortcut(Record):
    name: Literal["IdentityLayer"]
    in_channels: int
    out_channels: int
    use_bn: Literal[False] = False
    act_func: None = None
    dropout_rate: float = 0
    ops_order: str


class _Block(Record):
    name: Literal["MobileInvertedResidualBlock"]
    mobile_inverted_conv: Annotated[_Bottleneck | _Zero, Field(discriminator="name")]
    shortcut: _Shortcut | None

    @model_validator(mode="after")
    def _not_empty(self) -> "_Block":
        if isinstance(self.mobile_inverted_conv, _Zero) and self.shortcut is None:
            raise ValueError("neither a layer nor a shortcut")
        return self

    @property
    def out_channels(self) -> int:
        conv = self.mobile_inverted_conv
        layer = self.shortcut if isinstance(conv, _Zero) else conv
        assert layer is not None
        return layer.out_channels

    @property
    def candidate(self) -> Candidate:
        conv = self.mobile_inverted_conv
        if isinstance(conv, _Zero):
            return IDENTITY
        return Candidate(conv.expand_ratio, ((conv.kernel_size,),))

    @property
    def geometry(self) -> tuple[int, int, int, bool] | None:
        """Input and output channels, stride, whether the input is added; None without any layer."""
        conv = self.mobile_inverted_conv
        if isinstance(conv, _Zero):
            return None
        return conv.in_channels, conv.out_channels, conv.stride, self.shortcut is not None


class _BatchNorm(Record):
    eps: float
    momentum: float
    ws_eps: None = None


class _Linear(Record):
    name: Literal["LinearLayer"]
    in_features: int
    out_features: int
    bias: Literal[True]
    use_bn: Literal[False]
    act_func: None
    dropout_rate: float
    ops_order: str


class _Config(Record):
    name: Literal["ProxylessNASNets"]
    resolution: int
    bn: _BatchNorm
    first_conv: _Conv
    blocks: tuple[_Block, ...]
    feature_mix_layer: _Conv
    classifier: _Linear


def convert(
    config: Path, weights: Path, classes: tuple[str, ...] | None = None
) -> tuple[Network, NetworkInfo]:
    """The network of a published config and its weights, in eval mode; every array is used.

    classes: names in the order of the logits; their numbers if None. Raises BadInput naming the
    file and what is missing, left over, or not of the space `proxyless`.
    """
    network = _network(config)
    _load(network, weights)
    names = classes or tuple(map(str, range(network.num_classes)))
    if len(names) != network.num_classes:
        raise BadInput(f"{len(names)} class names; {config} has {network.num_classes} classes")
    return network.eval(), NetworkInfo(names, MEAN, STD, CROP)


def _network(path: Path) -> Network:
    """The network of a config, with fresh weights."""
    config = validated(_Config, read_json(path), path, "the config")
    try:
        space = load_space(_reference(config))
        chosen = [block.candidate for block in config.blocks]
        searched = (c for c, layer in zip(chosen, space.layers, strict=True) if layer.searchable)
        arch = Arch(tuple(searched))
        space.encode(arch)
        for mismatch in _mismatches(config, space):
            raise BadInput(mismatch)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None
    return Network(space, arch)


def _reference(config: _Config) -> str:
    """The space `proxyless` with the channels of a config."""
    stages = load_space(SPACE).spec.stages
    blocks = sum(stage.blocks for stage in stages)
    if len(config.blocks) != blocks:
        raise BadInput(f"{len(config.blocks)} blocks; networks of {SPACE} have {blocks}")
    last = accumulate(stage.blocks for stage in stages)
    stage_channels = [config.blocks[number - 1].out_channels for number in last]
    stem, head = config.first_conv.out_channels, config.feature_mix_layer.out_channels
    listed = ",".join(map(str, (stem, *stage_channels, head)))
    return (
        f"{SPACE}:channels=[{listed}],resolution={config.resolution},bn_eps={config.bn.eps}"
        f",num_classes={config.classifier.out_features}"
    )


def _mismatches(config: _Config, space: Space) -> Iterator[str]:
    """Where the network that is built would not be that of the config."""
    last = space.layers[-1].out_channels
    convs = (
        ("first_conv", config.first_conv, (3, space.stem_channels, 3, 2)),
        ("feature_mix_layer", config.feature_mix_layer, (last, space.head_channels, 1, 1)),
    )
    for name, conv, wanted in convs:
        found = (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride)
        if found != wanted:
            yield f"{name} has (channels in and out, kernel, stride) {found}, not {wanted}"
    if config.classifier.in_features != space.head_channels:
        yield f"classifier has {config.classifier.in_features} inputs, not {space.head_channels}"
    for number, (block, layer) in enumerate(zip(config.blocks, space.layers, strict=True)):
        if block.candidate not in layer.candidates:
            yield f"blocks.{number} is {block.candidate}, which {layer.name} does not offer"
        fits = (layer.in_channels, layer.out_channels, layer.stride, layer.adds_input)
        if block.geometry is not None and block.geometry != fits:
            yield (
                f"blocks.{number} has (channels in and out, stride, shortcut) {block.geometry}, "
                f"not {fits}"
            )


def _load(network: Network, path: Path) -> None:
    """Give a network the weights of a file, all of which it has to need."""
    arrays = _read(path)
    state = network.state_dict()
    for name, tensor in state.items():
        theirs = name
        for ours, replacement in _NAMES:
            theirs = re.sub(ours, replacement, theirs)
        if theirs not in arrays:
            if theirs.endswith("num_batches_tracked"):
                continue  # not used by networks whose batch norms have a momentum
            raise BadInput(f"{path}: array {theirs} is missing")
        array, wanted = arrays.pop(theirs), tensor.numpy()
        if (array.dtype, array.shape) != (wanted.dtype, wanted.shape):
            raise BadInput(
                f"{path}: array {theirs} is {array.dtype} {array.shape}, it must be "
                f"{wanted.dtype} {wanted.shape}"
            )
        tensor.copy_(torch.from_numpy(array))
    if arrays:
        raise BadInput(f"{path}: {len(arrays)} arrays are left over, the first {min(arrays)}")


def _read(path: Path) -> Arrays:
    if not path.is_file():
        raise BadInput(f"no such file: {path}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            size = sum(member.file_size for member in archive.zip.infolist())
            if size > _LARGEST:
                raise BadInput(f"{path} unpacks to {size:,} bytes; {_LARGEST:,} are read at most")
            return {name: archive[name] for name in archive.files}
    except BadInput:
        raise
    except _DAMAGES as error:
        reason = one_line(error)
        raise BadInput(f"{path} is not a readable .npz file: {reason}") from None
