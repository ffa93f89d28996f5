"""Typed settings: YAML presets in configs/, replaced key by key from the command line."""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mobilenas.errors import BadInput
from mobilenas.resources import resource

NonNegative = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]


class SupernetConfig(BaseModel):
    """How a supernet is trained; configs/supernet/*.yaml hold presets.

    passes: the budget in passes over the training images: an image that is run forward and
    backward through one arch counts once, so samplers are compared at equal cost. warmup is in
    passes too. limit: training images used at most. cutout and crop_padding are in pixels.
    precision auto: bfloat16 autocast on accelerators, float32 on the CPU, where autocast measured
    slower.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    sampler: Literal["uniform", "fair"] = "fair"
    bn: Literal["shadow", "shared"] = "shadow"
    passes: Annotated[float, Field(gt=0)] = 200
    batch_size: Positive = 96
    lr: Annotated[float, Field(gt=0)] = 0.025
    warmup: Annotated[float, Field(ge=0)] = 0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 3e-4
    clip: Annotated[float, Field(gt=0)] = 5.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    crop_padding: NonNegative = 4
    flip: bool = True
    cutout: NonNegative = 16
    limit: Positive | None = None
    validate_images: Positive = 5000
    calibrate_images: Positive = 2000
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 60
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    memory_format: Literal["channels_last", "contiguous"] = "channels_last"


def load_supernet_config(reference: str, overrides: list[str]) -> SupernetConfig:
    """A preset by name, or a YAML file, with `key=value` overrides. Raises BadInput."""
    folder = resource("configs") / "supernet"
    shipped = folder / f"{reference}.yaml"
    path = shipped if shipped.is_file() else Path(reference)
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        raise BadInput(f"no config {reference!r}: it is neither a YAML file nor one of {known}")
    try:
        data: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise BadInput(f"{path} must hold a mapping with the keys of a supernet config")
    for item in overrides:
        key, equals, value = item.partition("=")
        if not equals:
            raise BadInput(f"--set {item}: write key=value")
        try:
            data[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise BadInput(f"--set {item}: {' '.join(str(error).split())}") from None
    try:
        return SupernetConfig.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        known = ", ".join(SupernetConfig.model_fields)
        hint = f"; known keys are {known}" if first["type"] == "extra_forbidden" else ""
        raise BadInput(f"config {reference}: {key}: {first['msg']}{hint}") from None
