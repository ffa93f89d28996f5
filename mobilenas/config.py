"""Typed settings: YAML presets in configs/, replaced key by key from the command line."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mobilenas.errors import BadInput
from mobilenas.resources import read_preset, read_value

NonNegative = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]


class SupernetConfig(BaseModel):
    """How a supernet is trained; configs/supernet/*.yaml hold presets.

    passes: the budget in passes over the training images: an image that is run forward and
    backward through one arch counts once, so samplers are compared at equal cost. warmup is in
    passes too. limit: training images used at most. Where they are not set, validate_images is a
    fifth of the training images, 5,000 at most, and calibrate_images 2,016 at most. cutout and
    crop_padding are in pixels. precision auto: bfloat16 autocast on accelerators, float32 on the
    CPU, where autocast measured slower. batch_size counts the images of all processes, and with
    sync_bn batch norms normalise by all of them rather than by those of each process.
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
    validate_images: Annotated[int, Field(ge=8)] | None = None
    calibrate_images: Positive | None = None
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 60
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    sync_bn: bool = False
    memory_format: Literal["channels_last", "contiguous"] = "channels_last"


def load_supernet_config(reference: str, overrides: list[str]) -> SupernetConfig:
    """A preset by name, or a YAML file, with `key=value` overrides. Raises BadInput."""
    try:
        data = read_preset("supernet", reference) | dict(map(read_value, overrides))
    except BadInput as error:
        raise BadInput(f"config {reference}: {error}") from None
    try:
        return SupernetConfig.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        known = ", ".join(SupernetConfig.model_fields)
        hint = f"; known keys are {known}" if first["type"] == "extra_forbidden" else ""
        raise BadInput(f"config {reference}: {key}: {first['msg']}{hint}") from None
