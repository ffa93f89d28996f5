"""Typed settings: YAML presets in configs/, replaced key by key from the command line."""

import difflib
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mobilenas.base.errors import BadInput
from mobilenas.base.resources import read_preset, read_value

NonNegative = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]


class RunConfig(BaseModel):
    """What every training has: the images that it may use, and where and how it computes.

    limit: training images used at most. Where it is not set, validate_images is a fifth of the
    training images, 5,000 at most. batch_size counts the images of all processes, and with sync_bn
    batch norms normalise by all of them rather than by those of each process. precision auto:
    bfloat16 autocast on accelerators, float32 on the CPU, where autocast measured slower.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    batch_size: Positive = 96
    limit: Positive | None = None
    validate_images: Annotated[int, Field(ge=8)] | None = None
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 60
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    memory_format: Literal["channels_last", "contiguous"] = "channels_last"
    sync_bn: bool = False


class SupernetConfig(RunConfig):
    """How a supernet is trained; configs/supernet/*.yaml hold presets.

    passes: the budget in passes over the training images: an image that is run forward and
    backward through one arch counts once, so samplers are compared at equal cost. warmup is in
    passes too. calibrate_images: 2,016 at most where it is not set. cutout and crop_padding are in
    pixels.
    """

    sampler: Literal["uniform", "fair"] = "fair"
    bn: Literal["shadow", "shared"] = "shadow"
    passes: Annotated[float, Field(gt=0)] = 200
    lr: Annotated[float, Field(gt=0)] = 0.025
    warmup: Annotated[float, Field(ge=0)] = 0
    momentum: Share = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 3e-4
    clip: Annotated[float, Field(gt=0)] = 5.0
    label_smoothing: Share = 0.0
    crop_padding: NonNegative = 4
    flip: bool = True
    cutout: NonNegative = 16
    calibrate_images: Positive | None = None


class TrainConfig(RunConfig):
    """How one network is trained alone; configs/train/*.yaml hold presets.

    epochs: passes over the training images; warmup_epochs and decay_epochs (of the schedule `step`)
    count likewise. optimizer: a name of timm.optim, optimizer_options what else it takes. Weight
    decay leaves out biases and batch norms. clip: largest gradient norm. ema_decay: of a moving
    average of the weights, which is then what is validated and kept; its decay rises to this as
    training goes on. mixup, cutmix: their alphas. drop_rate: of the dropout before the classifier,
    the space's own if None; drop_path_rate: as `nn.Network` has it.

    crop to interpolation: see `data.Augment`. eval_crop: share of the short side that evaluation
    keeps, and training too of images that are held in memory. stream: read images when they are
    needed instead of holding them in memory; workers: processes that read and augment images where
    that is not done for whole batches.

    teacher: `supernet` (the largest arch of --inherit), a saved network's folder, or timm:NAME with
    @FILE for its weights; its softened predictions are distill_weight of the loss.
    """

    epochs: Annotated[float, Field(gt=0)] = 100
    optimizer: str = "sgd"
    optimizer_options: dict[str, Any] = {}
    lr: Annotated[float, Field(gt=0)] = 0.05
    momentum: Share = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    clip: Annotated[float, Field(gt=0)] | None = 5.0
    schedule: Literal["cosine", "step", "poly"] = "cosine"
    warmup_epochs: Annotated[float, Field(ge=0)] = 0
    decay_epochs: Annotated[float, Field(gt=0)] = 2.4
    decay_rate: Annotated[float, Field(gt=0, le=1)] = 0.97
    min_lr: Annotated[float, Field(ge=0)] = 0.0
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    label_smoothing: Share = 0.0
    mixup: Annotated[float, Field(ge=0)] = 0.0
    cutmix: Annotated[float, Field(ge=0)] = 0.0
    drop_rate: Share | None = None
    drop_path_rate: Share = 0.0
    crop: Literal["pad", "resize"] = "pad"
    crop_padding: NonNegative = 4
    min_area: Annotated[float, Field(gt=0, le=1)] = 0.08
    flip: bool = True
    cutout: NonNegative = 0
    color_jitter: Annotated[float, Field(ge=0)] = 0.0
    auto_augment: str | None = None
    random_erasing: Annotated[float, Field(ge=0, le=1)] = 0.0
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "random"] = "bilinear"
    eval_crop: Annotated[float, Field(gt=0, le=1)] = 1.0
    validate_every: Annotated[float, Field(gt=0)] = 1
    stream: bool = False
    workers: NonNegative = 2
    teacher: str | None = None
    distill_weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    distill_temperature: Annotated[float, Field(gt=0)] = 2.0

    @model_validator(mode="after")
    def _even(self) -> "TrainConfig":
        if self.batch_size % 2 and (self.mixup or self.cutmix):
            raise ValueError(
                f"mixup and cutmix pair images: batch_size {self.batch_size} must be even"
            )
        return self


Config = TypeVar("Config", bound=RunConfig)


def load_supernet_config(reference: str, overrides: list[str]) -> SupernetConfig:
    """A preset of configs/supernet by name, or a YAML file, with `key=value` overrides.

    Raises BadInput.
    """
    return _load("supernet", SupernetConfig, reference, overrides)


def load_train_config(reference: str, overrides: list[str]) -> TrainConfig:
    """As `load_supernet_config`, of configs/train."""
    return _load("train", TrainConfig, reference, overrides)


def _load(kind: str, config: type[Config], reference: str, overrides: list[str]) -> Config:
    try:
        data = read_preset(kind, reference) | dict(map(read_value, overrides))
    except BadInput as error:
        raise BadInput(f"config {reference}: {error}") from None
    try:
        return config.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            message = _unknown(key, list(config.model_fields))
        raise BadInput(f"config {reference}: {f'{key}: ' if key else ''}{message}") from None


def _unknown(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known keys are {', '.join(known)}"
    return f"there is no such key; {hint}"
