"""Networks on disk: a safetensors file that is all one needs, and a config.json for timm beside it.

The header of the safetensors file holds the space, the arch and what a consumer has to know, as
JSON under the key `mobilenas`. config.json says the same in the layout of timm and the Hugging Face
hub, so that `timm.create_model("local-dir:FOLDER", pretrained=True)` works too. A folder that timm
itself wrote has no such header, and is read by its config.json.
"""

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, Json, ValidationError
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from mobilenas import __version__
from mobilenas.base.errors import BadInput, one_line
from mobilenas.base.files import read_json, write_together
from mobilenas.base.settings import Record, first_error, validated
from mobilenas.cost.memory import check_fits
from mobilenas.cost.model import flops_and_params
from mobilenas.nn.network import Network
from mobilenas.nn.plain_network import AnyNetwork, plain_network
from mobilenas.space import NetworkSpace, load_network_space, network_space_from_dict
from mobilenas.space.published import PUBLISHED

log = logging.getLogger(__name__)

WEIGHTS, CONFIG = "model.safetensors", "config.json"  # what timm and the hub look for
_PICKLED = "pytorch_model.bin"  # what timm writes unless safetensors are asked for
_KEY = "mobilenas"

Channels = tuple[float, float, float]


@dataclass(frozen=True)
class Accuracy:
    """Top-1 in 0..1 and what it was measured on, such as `1000 test images`."""

    top1: float
    images: str


@dataclass(frozen=True)
class NetworkInfo:
    """What a consumer of a network has to know beside its weights.

    classes: their names, in the order of the logits. mean, std: per channel, in units of 0..1, that
    the network was trained with. crop: share of the short side that is kept at evaluation (timm's
    crop_pct): an image's short side becomes resolution / crop, then the centre is cut out.
    accuracy: None where it is not known.

    Raises BadInput naming what is out of range.
    """

    classes: tuple[str, ...]
    mean: Channels
    std: Channels
    crop: float = 1.0
    accuracy: Accuracy | None = None

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, self.mean)):
            raise BadInput(f"mean {self.mean}: must be finite numbers")
        if not all(math.isfinite(value) and value > 0 for value in self.std):
            raise BadInput(f"std {self.std}: must be finite numbers above 0")
        if not 0 < self.crop <= 1:
            raise BadInput(f"crop {self.crop}: must be a share above 0, up to 1")
        if self.accuracy is not None and not 0 <= self.accuracy.top1 <= 1:
            raise BadInput(f"accuracy {self.accuracy.top1}: must be in 0..1")


class _Header(Record):
    """What the safetensors file says of itself. mobilenas: the version that wrote it."""

    mobilenas: str
    space: dict[str, Any]
    arch: str
    info: NetworkInfo


class _Metadata(Record):
    """The header of the safetensors file: the one key that is ours."""

    mobilenas: Json[_Header]


class _TimmPreparation(BaseModel):
    """The keys of timm's pretrained_cfg that say how images are prepared."""

    input_size: tuple[int, int, int]
    mean: Channels
    std: Channels
    crop_pct: float
    interpolation: str = "bilinear"
    crop_mode: str = "center"
    label_names: tuple[str, ...] | None = None


class _TimmConfig(BaseModel):
    """The keys of a config.json of timm that say what the weights beside it are."""

    architecture: str
    num_classes: int
    model_args: dict[str, Any] = {}
    pretrained_cfg: _TimmPreparation
    label_names: tuple[str, ...] | None = None


def own_space(network: AnyNetwork) -> NetworkSpace:
    """The space of a network with the network's numbers of classes and of channels of the images.

    Raises BadInput for less than two classes.
    """
    own = {"num_classes": network.num_classes, "in_channels": network.in_chans}
    if own == {
        "num_classes": network.space.num_classes,
        "in_channels": network.space.spec.in_channels,
    }:
        return network.space
    return network_space_from_dict(network.space.to_dict() | own)


def save_network(network: AnyNetwork, folder: Path, info: NetworkInfo) -> None:
    """Write folder/model.safetensors and folder/config.json; equal networks give equal bytes.

    A kill at any instant leaves the old network, the new one, or one of them without config.json,
    which `load_network` does not need. Raises BadInput when `info` does not fit the network, and
    OSError when the folder cannot be written; the old files are as they were then.
    """
    space = own_space(network)
    _check_fits(space, info)
    header = _Header(
        mobilenas=__version__, space=space.to_dict(), arch=str(network.arch), info=info
    )
    tensors = {name: t.detach().cpu().contiguous() for name, t in network.state_dict().items()}
    # One key: safetensors writes several in the order of a hash table.
    weights = save(tensors, {_KEY: header.model_dump_json()})
    config = json.dumps(_timm_config(network, space, info), indent=1, allow_nan=False) + "\n"
    write_together({folder / WEIGHTS: weights, folder / CONFIG: config.encode()})


def load_network(path: Path) -> tuple[AnyNetwork, NetworkInfo]:
    """The network of a folder of `save_network`, or of its .safetensors file alone, in eval mode.

    Raises BadInput naming the file when it is missing, damaged, of another program, or when its
    arch or its tensors are not those of its space.
    """
    file = path
    if path.is_dir():
        only_pickled = (path / _PICKLED).is_file() and not (path / WEIGHTS).is_file()
        file = path / (_PICKLED if only_pickled else WEIGHTS)
    header, tensors = _read(file)
    try:
        space = network_space_from_dict(header.space)
        _check_fits(space, header.info)
        arch = space.parse(header.arch)
        check_fits(f"arch {arch}", 4 * int(flops_and_params(space, [arch])["params"][0]))
        network = plain_network(space, arch)
        check_tensors(network.state_dict(), tensors)
    except BadInput as error:
        raise BadInput(f"{file}: {error}") from None
    network.load_state_dict(tensors)
    return network.eval(), header.info


def load_block_network(path: Path) -> tuple[Network, NetworkInfo]:
    """As `load_network`, but a network of cells is BadInput."""
    network, info = load_network(path)
    if not isinstance(network, Network):
        raise BadInput(f"{path} is a network of cells; it must be one of a space of blocks")
    return network, info


def _read(file: Path) -> tuple[_Header, dict[str, Tensor]]:
    if not file.is_file():
        raise BadInput(f"no saved network at {file}")
    try:
        if file.name == _PICKLED:
            header, tensors = None, torch.load(file, map_location="cpu", weights_only=True)
        else:
            with safe_open(file, framework="pt") as opened:
                header = (opened.metadata() or {}).get(_KEY)
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except Exception as error:  # damaged bytes make both raise errors of several classes
        kind = "PyTorch" if file.name == _PICKLED else "safetensors"
        raise BadInput(f"{file} is not a readable {kind} file: {one_line(error)}") from None
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in tensors.items()
    ):
        raise BadInput(f"{file} must hold a state dict, tensors by their names")
    if header is None:
        if not file.with_name(CONFIG).is_file():
            raise BadInput(f"{file} is not of mobilenas: its header has no key {_KEY!r}")
        return _header_of_timm(file.with_name(CONFIG)), tensors
    try:
        return _Metadata.model_validate({_KEY: header}).mobilenas, tensors
    except ValidationError as error:
        raise BadInput(f"{file}: header {first_error(error, _KEY)}") from None


def _header_of_timm(path: Path) -> _Header:
    """What a config.json of timm says of the weights beside it.

    Raises BadInput naming the file and the key.
    """
    config = validated(_TimmConfig, read_json(path), path)
    prepared, given = config.pretrained_cfg, config.model_args
    published = PUBLISHED.get(config.architecture.removeprefix("mobilenas_"))
    if published is None and config.architecture != "mobilenas":
        raise BadInput(f"{path}: architecture {config.architecture} is none of mobilenas")
    space, arch = published or (given.get("space"), given.get("arch"))
    if not isinstance(space, str | dict) or not isinstance(arch, str):
        raise BadInput(f"{path}: model_args must have space and arch")
    if (prepared.interpolation, prepared.crop_mode) != ("bilinear", "center"):
        log.warning(
            "%s: images are resized bilinearly and their centre is cut, not %s and %s",
            *(path, prepared.interpolation, prepared.crop_mode),
        )
    try:
        built = (
            network_space_from_dict(space) if isinstance(space, dict) else load_network_space(space)
        )
        channels, height, width = prepared.input_size
        if height != width:
            raise BadInput(f"input_size {height} x {width}: must be square")
        sizes = {"in_channels": channels, "resolution": height, "num_classes": config.num_classes}
        info = NetworkInfo(
            classes=prepared.label_names or config.label_names or _numbers(config.num_classes),
            mean=prepared.mean,
            std=prepared.std,
            crop=prepared.crop_pct,
        )
        return _Header(mobilenas=__version__, space=built.to_dict() | sizes, arch=arch, info=info)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None


def _numbers(count: int) -> tuple[str, ...]:
    return tuple(map(str, range(count)))


def _check_fits(space: NetworkSpace, info: NetworkInfo) -> None:
    if len(info.classes) != space.num_classes:
        raise BadInput(
            f"{len(info.classes)} class names; the network has {space.num_classes} classes"
        )
    if space.spec.in_channels != len(info.mean):
        raise BadInput(
            f"mean and std of {len(info.mean)} channels; the network takes {space.spec.in_channels}"
        )


def check_tensors(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Raise BadInput naming the first tensor that is missing, too much or of another shape."""
    for name in sorted(wanted.keys() | found.keys()):
        if name not in found:
            raise BadInput(f"tensor {name} is missing")
        if name not in wanted:
            raise BadInput(f"tensor {name} is none of the network's")
        if found[name].shape != wanted[name].shape:
            shapes = [list(tensors[name].shape) for tensors in (found, wanted)]
            raise BadInput(f"tensor {name} is {shapes[0]}; the network has {shapes[1]}")


def _timm_config(network: AnyNetwork, space: NetworkSpace, info: NetworkInfo) -> dict[str, Any]:
    """As timm's `save_for_hf` lays it out."""
    names = (name for name, part in network.named_modules() if isinstance(part, nn.Conv2d))
    return {
        "architecture": "mobilenas",
        "num_classes": network.num_classes,
        "num_features": network.num_features,
        "model_args": {"space": space.to_dict(), "arch": str(network.arch)},
        "pretrained_cfg": {
            "num_classes": network.num_classes,
            "input_size": [space.spec.in_channels, space.resolution, space.resolution],
            "interpolation": "bilinear",
            "crop_pct": info.crop,
            "crop_mode": "center",
            "mean": info.mean,
            "std": info.std,
            "label_names": info.classes,
            "first_conv": next(names),
            "classifier": "classifier",
        },
    }
