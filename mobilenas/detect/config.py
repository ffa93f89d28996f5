"""Configs of mmdet, shipped in configs/detection, for one network and one data set."""

import argparse
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction

from mobilenas.base.errors import BadInput, one_line
from mobilenas.base.resources import resource
from mobilenas.data.coco import CocoData
from mobilenas.detect.stored import DATA, read_data_config
from mobilenas.nn.network import feature_info
from mobilenas.nn.saved import NetworkInfo, load_block_network
from mobilenas.space import Arch, Space, load_space

_log = logging.getLogger(__name__)

_NEEDED = (
    *("model.backbone", "model.neck", "optim_wrapper", "train_cfg", "val_evaluator"),
    *("test_evaluator", "model.data_preprocessor", "visualizer"),
)
_LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")


def recipes() -> list[str]:
    """Names of the shipped recipes. A file whose name starts with _ is a part of others."""
    return sorted(path.stem for path in (resource("configs") / "detection").glob("[!_]*.py"))


def load_config(
    reference: str,
    *,
    space: str | None = None,
    arch: str | None = None,
    weights: Path | None = None,
    data: CocoData | None = None,
    options: Sequence[str] = (),
) -> Config:
    """The config of a shipped recipe by name, or of a file in mmengine's format.

    space, arch: the backbone, as `load_space` and `Space.parse` take them. weights: a saved network
    instead, which is the backbone and its first weights, and gives mean and std of the images.
    data: what to train and evaluate on, which also gives the number of classes. What is None stays
    as the file has it, the neck fitted to its backbone. options: `key=value` as of mmdet's
    --cfg-options, the keys dotted; a key that the config had not is told.

    The config holds all it needs beside the data, so that its dump can be loaded with no argument.
    A backbone without weights trains all its layers and batch norms, at the rate of the head,
    whatever the recipe says.
    Raises BadInput naming what is wrong.
    """
    config = read_config(reference)
    needed = [*_NEEDED, *(f"{loader}.dataset" for loader in _LOADERS)]
    missing = [key for key in needed if not _has(config, key.split("."))]
    if missing:
        raise BadInput(f"config {reference} has no {', '.join(missing)}: no detector for this tool")
    if weights is not None:
        if space is not None or arch is not None:
            raise BadInput(f"{weights} says space and arch itself: give weights, or space and arch")
        network, info = load_block_network(weights)
        set_backbone(config, network.space, network.arch)
        _set_weights(config, weights, info)
    elif space is not None and arch is not None:
        built = load_space(space)
        set_backbone(config, built, built.parse(arch))
    elif space is not None or arch is not None:
        raise BadInput("space and arch go together")
    elif isinstance(config.model.backbone.get("space"), str):  # as the recipes have it
        own = config.model.backbone
        built = load_space(own.space)
        set_backbone(config, built, built.parse(own.arch))
        if "init_cfg" in own:
            config.model.backbone.init_cfg = own.init_cfg
    _train_what_is_random(config)
    if data is not None:
        set_data(config, data)
    set_options(config, options)
    return config


def read_config(reference: str) -> Config:
    """A shipped recipe by name, or a file in mmengine's format, as it is; a .py file is executed,
    YAML and JSON are data. Raises BadInput.
    """
    folder = resource("configs") / "detection"
    path = folder / f"{reference}.py" if reference in recipes() else Path(reference)
    if not path.is_file():
        raise BadInput(f"{reference!r} is neither a config file nor one of {', '.join(recipes())}")
    if path.suffix in DATA:
        return read_data_config(path)
    try:
        return Config.fromfile(path)
    except (Exception, SystemExit) as error:  # of the code in it
        raise BadInput(f"config {path}: {one_line(error)}") from None


def set_backbone(config: Config, space: Space, arch: Arch) -> None:
    """Make an arch the backbone of a config, and fit the neck to its feature maps.

    The maps are those of the strides that the head has anchors for, as many as the config's neck
    takes. Raises BadInput when the space has other strides, or other images than RGB.
    """
    if space.spec.in_channels != 3:
        raise BadInput(f"{space.name} takes {space.spec.in_channels} channels; images have 3")
    model = config.model
    if "encoder" in model or "decoder" in model:
        raise BadInput(f"{model.type} is a transformer; detectors with heads of boxes are known")
    neck = model.neck[0] if isinstance(model.neck, list) else model.neck
    if not neck or neck.get("in_channels") is None:
        raise BadInput(f"{model.type} has no neck whose in_channels say how many maps it takes")
    several = not isinstance(neck.in_channels, int)
    count = len(neck.in_channels) - neck.get("start_level", 0) if several else 1
    rows, channels = feature_maps(space, _strides(model, count, space))
    old = model.backbone
    kept = {key: old[key] for key in ("frozen_stages", "norm_eval") if key in old}
    model.backbone = {
        "type": "MobileNASBackbone",
        "space": space.to_dict(),
        "arch": str(arch),
        "out_indices": sorted(rows),
        **kept,
    }
    neck.in_channels = channels if several else channels[0]
    if "start_level" in neck:
        neck.start_level = 0
    if neck.type == "SSDNeck":  # whose first outputs are its inputs
        neck.out_channels = [*channels, *neck.out_channels[count:]]
        model.bbox_head.in_channels = neck.out_channels


def _strides(model: Config, count: int, space: Space) -> list[int]:
    """The strides of the `count` maps that a neck takes, in the order of its channels.

    The head says them. One that does not (CenterNet's) takes the last map of the backbone.
    """
    head = model.get("rpn_head", model.get("bbox_head"))
    if head is None:
        raise BadInput(f"{model.type} has neither rpn_head nor bbox_head: no detector of boxes")
    for values in _dicts(head):
        for key in ("strides", "point_strides"):
            if key in values:
                return list(values[key][:count])
    if count > 1:
        raise BadInput(f"the head {head.type} has no strides that say which feature maps it takes")
    return [feature_info(space)[-1]["reduction"]]


def feature_maps(space: Space, strides: Sequence[int]) -> tuple[list[int], list[int]]:
    """Rows (for out_indices) and channels of a space's feature maps of these strides, for a neck.

    Raises BadInput when it has no map of one of them.
    """
    rows = {row["reduction"]: i for i, row in enumerate(feature_info(space))}
    if not set(strides) <= rows.keys():
        raise BadInput(
            f"{space.name} has feature maps of strides {_listed(rows)}; the detector needs "
            f"{_listed(strides)}"
        )
    taken = [rows[stride] for stride in strides]
    return taken, [feature_info(space)[row]["num_chs"] for row in taken]


def set_data(config: Config, data: CocoData) -> None:
    """Train and evaluate on a data set, with its classes."""
    for loader, part in (
        (config.train_dataloader, data.train),
        (config.val_dataloader, data.val),
        (config.test_dataloader, data.val),
    ):
        dataset = innermost(loader.dataset)
        dataset.type = "CocoDataset"
        dataset.data_root = ""
        dataset.ann_file = str(part.annotations.absolute())
        dataset.data_prefix = {"img": str(part.images.absolute())}
        dataset.metainfo = {"classes": data.classes}  # mmdet's tools add to the tuple
    for evaluator in evaluators(config):
        evaluator.ann_file = str(data.val.annotations.absolute())
    for values in _with_classes(config):
        values["num_classes"] = len(data.classes)


def check_classes(config: Config, data: CocoData) -> None:
    """Raise BadInput where an option has set another number of classes than the data have."""
    for values in _with_classes(config):
        if values["num_classes"] != len(data.classes):
            raise BadInput(
                f"num_classes {values['num_classes']}: the data have {len(data.classes)} classes, "
                "and set it"
            )


def _with_classes(config: Config) -> Iterator[dict[str, Any]]:
    model = {key: value for key, value in config.model.items() if key != "backbone"}
    return (values for values in _dicts(model) if "num_classes" in values)


def evaluators(config: Config) -> list[Config]:
    """Those of validation and of testing; a config has one, or a list."""
    return [
        each
        for given in (config.val_evaluator, config.test_evaluator)
        for each in (given if isinstance(given, list) else [given])
    ]


def innermost(dataset: Config) -> Config:
    """The data set that others repeat or mix."""
    return innermost(dataset.dataset) if "dataset" in dataset else dataset


def set_options(config: Config, options: Sequence[str]) -> None:
    """Set keys of a config by `key=value`; a key that is new is logged.

    Raises BadInput naming an option that is wrong.
    """
    for option in options:
        key, equals, _ = option.partition("=")
        keys = key.split(".")
        if not equals or not _has(config, keys[:-1]):
            raise BadInput(f"option {option!r} must be key=value, the key one of the config")
        known = _has(config, keys)
        parsed = argparse.Namespace()
        try:
            DictAction("--options", "options", nargs="*")(None, parsed, [option])
            config.merge_from_dict(parsed.options)
        except (KeyError, TypeError, ValueError, AssertionError) as error:
            raise BadInput(f"option {option!r}: {one_line(error)}") from None
        if not known:
            _log.warning("option %s: the config had no such key", option)


def _set_weights(config: Config, weights: Path, info: NetworkInfo) -> None:
    model = config.model
    model.backbone.init_cfg = {"type": "Pretrained", "checkpoint": str(weights.absolute())}
    model.data_preprocessor.mean = [255 * value for value in info.mean]
    model.data_preprocessor.std = [255 * value for value in info.std]
    model.data_preprocessor.bgr_to_rgb = True  # mmdet reads images as BGR


def _train_what_is_random(config: Config) -> None:
    backbone = config.model.backbone
    if backbone.type != "MobileNASBackbone" or "init_cfg" in backbone:
        return
    if backbone.get("norm_eval") or backbone.get("frozen_stages", -1) >= 0:
        _log.warning("no weights for the backbone: all its layers and batch norms are trained")
        backbone.update(norm_eval=False, frozen_stages=-1)
    groups = config.optim_wrapper.get("paramwise_cfg") or {}
    groups.get("custom_keys", {}).pop("backbone", None)


def _has(config: Any, keys: list[str]) -> bool:
    """Whether there is a value under these keys; those of lists are numbers."""
    try:
        for key in keys:
            config = config[int(key) if isinstance(config, list) else key]
    except (KeyError, IndexError, TypeError, ValueError):
        return False
    return True


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    """Every dictionary in a part of a config."""
    if isinstance(value, dict):
        yield value
    for part in value.values() if isinstance(value, dict) else value:
        if isinstance(part, dict | list | tuple):
            yield from _dicts(part)


def _listed(values: Any) -> str:
    return ", ".join(map(str, values))
