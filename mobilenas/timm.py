"""Every arch as a timm model: importing this module registers `mobilenas` and named networks.

`timm.create_model` finds models in timm's own registry and offers no other way in. So this import
is the one registration in the project, and it is never made by another module.
"""

from functools import partial
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import register_notrace_module
from timm.models import (
    PretrainedCfg,
    build_model_with_cfg,
    generate_default_cfgs,
    register_model,
)
from torch import nn

from mobilenas.base.errors import BadInput
from mobilenas.nn import Network
from mobilenas.nn.kernels.depthwise import DepthwiseConv2d
from mobilenas.nn.kernels.relu6 import ReLU6
from mobilenas.nn.network import chosen_rows, feature_info
from mobilenas.space import Arch, Space, load_space, space_from_dict
from mobilenas.space.published import PUBLISHED

__all__ = ["fairnas_a", "fairnas_b", "fairnas_c", "mobilenas", "mobilenas_mobilenetv2_100"]

# Whole to timm's fx tracer, so that the feature networks it makes train as fast as others.
register_notrace_module(DepthwiseConv2d)
register_notrace_module(ReLU6)

_LAYERS = {"first_conv": "stem.conv", "classifier": "classifier"}
_SOURCES = ("file", "url", "hf_hub_id", "state_dict")  # where a pretrained_cfg may have weights


def default_cfg(space: Space) -> dict[str, Any]:
    """What timm's `pretrained_cfg` says of an untrained network of a space.

    Images are prepared as everywhere in this project: the short side scaled to the resolution
    (bilinear), then the centre. mean and std are ImageNet's, or 0.5 unless channels are three.
    """
    channels, size = space.spec.in_channels, space.resolution
    rgb = channels == 3
    return {
        "num_classes": space.num_classes,
        "input_size": (channels, size, size),
        "pool_size": (space.layers[-1].out_size,) * 2,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "mean": IMAGENET_DEFAULT_MEAN if rgb else (0.5,) * channels,
        "std": IMAGENET_DEFAULT_STD if rgb else (0.5,) * channels,
        **_LAYERS,
    }


def _published_cfg(name: str, interpolation: str = "bilinear") -> dict[str, Any]:
    """The same of a published network, which is evaluated on the centre of a larger image."""
    cfg = default_cfg(load_space(PUBLISHED[name][0]))
    return cfg | {"interpolation": interpolation, "crop_pct": 0.875}


default_cfgs = generate_default_cfgs(
    {
        # Only what does not depend on the space; None stands for the rest.
        "mobilenas": dict.fromkeys(default_cfg(load_space("s1"))) | _LAYERS,
        "fairnas_a": _published_cfg("fairnas_a"),
        "fairnas_b": _published_cfg("fairnas_b"),
        "fairnas_c": _published_cfg("fairnas_c"),
        "mobilenas_mobilenetv2_100": _published_cfg("mobilenetv2_100", "bicubic"),
    }
)


def mobilenas(
    pretrained: bool = False,
    *,
    space: str | dict[str, Any] | None = None,
    arch: str | Arch | None = None,
    **kwargs: Any,
) -> nn.Module:
    """The network of an arch: `timm.create_model("mobilenas", space="s1", arch="e3k3_...")`.

    space: a reference as `load_space` takes it, or the plain data of `Space.to_dict`. arch: its
    text form, or an Arch. kwargs: those of `Network`, and timm's own (features_only, out_indices,
    feature_cls, pretrained_cfg, pretrained_cfg_overlay ...).

    Raises BadInput when space or arch is missing or wrong, and when pretrained weights are asked
    for but no file of them is named: none are hosted.
    """
    if space is None or arch is None:
        raise BadInput(
            "timm model mobilenas needs space= (a name such as s1, a YAML file or a space's plain "
            "data) and arch= (such as e3k3_e6k35_id)"
        )
    built = space_from_dict(space) if isinstance(space, dict) else load_space(str(space))
    chosen = arch if isinstance(arch, Arch) else built.parse(str(arch))
    return _build("mobilenas", built, chosen, default_cfg(built), pretrained, **kwargs)


def fairnas_a(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """FairNAS-A (Chu et al. 2021)."""
    return _build_published("fairnas_a", "fairnas_a", pretrained, **kwargs)


def fairnas_b(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """FairNAS-B (Chu et al. 2021)."""
    return _build_published("fairnas_b", "fairnas_b", pretrained, **kwargs)


def fairnas_c(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """FairNAS-C (Chu et al. 2021)."""
    return _build_published("fairnas_c", "fairnas_c", pretrained, **kwargs)


def mobilenas_mobilenetv2_100(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """MobileNetV2 1.0 (Sandler et al. 2018) as an arch of the space `mobilenetv2`."""
    return _build_published("mobilenas_mobilenetv2_100", "mobilenetv2_100", pretrained, **kwargs)


def _build_published(name: str, published: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    reference, arch = PUBLISHED[published]
    space = load_space(reference)
    cfg = default_cfgs[name].default.to_dict()
    return _build(name, space, space.parse(arch), cfg, pretrained, **kwargs)


def _build(
    name: str,
    space: Space,
    arch: Arch,
    cfg: dict[str, Any],
    pretrained: bool,
    pretrained_cfg: Any = None,  # as timm gives it: a dict, a PretrainedCfg or a tag
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    feature_cfg: dict[str, Any] | None = None,
    output_stride: int | None = None,
    **kwargs: Any,
) -> nn.Module:
    """What timm builds, with what `pretrained_cfg` does not say taken from `cfg`."""
    rows = feature_info(space)
    if output_stride is not None:
        reductions = ", ".join(str(row["reduction"]) for row in rows)
        raise BadInput(f"output_stride: {name} has reductions {reductions} and is never dilated")
    feature_cfg = {"flatten_sequential": True, **(feature_cfg or {})}
    out_indices = kwargs.pop("out_indices", feature_cfg.get("out_indices"))
    feature_cfg["out_indices"] = tuple(chosen_rows(len(rows), out_indices))
    if isinstance(pretrained_cfg, str):
        raise BadInput(f"{name} has no weights with the tag {pretrained_cfg!r}")
    if isinstance(pretrained_cfg, PretrainedCfg):
        pretrained_cfg = pretrained_cfg.to_dict()
    cfg = cfg | {k: v for k, v in (pretrained_cfg or {}).items() if v is not None}
    sources = cfg | (pretrained_cfg_overlay or {})
    if pretrained and not any(sources.get(key) for key in _SOURCES):
        raise BadInput(
            f"no weights of {name} are hosted: give the file of yours as checkpoint_path, or "
            "load a saved folder as local-dir:FOLDER"
        )
    return build_model_with_cfg(
        partial(Network, space, arch),
        name,
        pretrained,
        pretrained_cfg=cfg,
        pretrained_cfg_overlay=pretrained_cfg_overlay,
        feature_cfg=feature_cfg,
        **kwargs,
    )


for _entry in (mobilenas, fairnas_a, fairnas_b, fairnas_c, mobilenas_mobilenetv2_100):
    register_model(_entry)
