"""How things are trained: typed settings with presets in configs/supernet and configs/train."""

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, model_validator

from mobilenas.base.files import user_path
from mobilenas.base.settings import Record, load_settings
from mobilenas.data import Augment
from mobilenas.nn.sharing import Sharing

# Upper bounds are far beyond what is run: a number with a slip in it is refused at once.
NonNegative = Annotated[int, Field(ge=0, le=1 << 13)]
Positive = Annotated[int, Field(ge=1, le=10**9)]
NotNegative = Annotated[float, Field(ge=0)]
AboveZero = Annotated[float, Field(gt=0)]
Duration = Annotated[float, Field(gt=0, le=10**6)]  # epochs or passes
Warmup = Annotated[float, Field(ge=0, le=10**6)]
Share = Annotated[float, Field(ge=0, lt=1)]
Config = TypeVar("Config", bound="TrainingConfig")


class TrainingConfig(Record):
    """What every training has: images, optimizer, schedule, augmentation, where it computes.

    Durations (warmup_epochs, decay_epochs) are in passes over the training images.

    limit: training images used at most. Where it is not set, validate_images is a fifth of the
    training images, 5,000 at most. batch_size counts the images of all processes, and with sync_bn
    batch norms normalise by all of them rather than by those of each process. precision auto:
    bfloat16 autocast on accelerators, float32 on the CPU, where autocast measured slower.

    stream: read images when they are needed instead of holding them decoded in memory; where it is
    not set, images that would take more than 2 GiB are streamed. workers: processes that read and
    augment images where that is not done for whole batches.

    optimizer: a name of timm.optim, optimizer_options what else it takes. filter_bias_and_bn: no
    weight decay for biases and batch norms. clip: largest gradient norm. warmup_prefix: whether the
    schedule starts after the warm-up, or the warm-up takes the place of its first steps.
    decay_epochs, decay_rate: of the schedule `step`. ema_decay: of a moving average of the weights,
    which is then what is kept; its decay rises to this as training goes on. mixup, cutmix: their
    alphas.

    crop to interpolation: see `data.Augment`. eval_crop: share of the short side that evaluation
    keeps, and training too of images that are held in memory.

    teacher: a saved network's folder, or timm:NAME with @FILE for its weights; its softened
    predictions are distill_weight of the loss. For one network also `supernet`, the largest arch of
    --inherit.
    """

    batch_size: Annotated[int, Field(ge=2, le=1 << 17)] = 96
    limit: Positive | None = None
    validate_images: Annotated[int, Field(ge=8, le=10**9)] | None = None
    checkpoint_seconds: NotNegative = 60
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    memory_format: Literal["channels_last", "contiguous"] = "channels_last"
    sync_bn: bool = False
    stream: bool | None = None
    workers: Annotated[int, Field(ge=0, le=512)] = 2

    optimizer: str = "sgd"
    optimizer_options: Annotated[dict[str, Any], Field(default_factory=dict)]
    lr: AboveZero = 0.05
    momentum: Share = 0.9
    weight_decay: NotNegative = 5e-4
    filter_bias_and_bn: bool = True
    clip: AboveZero | None = 5.0
    schedule: Literal["cosine", "step", "poly"] = "cosine"
    warmup_epochs: Warmup = 0
    warmup_prefix: bool = False
    decay_epochs: AboveZero = 2.4
    decay_rate: Annotated[float, Field(gt=0, le=1)] = 0.97
    min_lr: NotNegative = 0.0
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None

    label_smoothing: Share = 0.0
    mixup: NotNegative = 0.0
    cutmix: NotNegative = 0.0
    crop: Literal["pad", "resize"] = "pad"
    crop_padding: NonNegative = 4
    min_area: Annotated[float, Field(gt=0, le=1)] = 0.08
    flip: bool = True
    cutout: NonNegative = 0
    color_jitter: NotNegative = 0.0
    auto_augment: str | None = None
    random_erasing: Annotated[float, Field(ge=0, le=1)] = 0.0
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "random"] = "bilinear"
    eval_crop: Annotated[float, Field(gt=0, le=1)] = 1.0

    teacher: str | None = None
    distill_weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    distill_temperature: AboveZero = 2.0

    @model_validator(mode="after")
    def _even(self) -> "TrainingConfig":
        if self.batch_size % 2 and (self.mixup or self.cutmix):
            raise ValueError(
                f"mixup and cutmix pair images: batch_size {self.batch_size} must be even"
            )
        return self

    def resuming(self: "Config", stored: "Config") -> "Config":
        """This config as it is compared with that of a run: `stream` unset is what the run has,
        and a saved teacher may have moved.
        """
        same: dict[str, Any] = {"stream": stored.stream} if self.stream is None else {}
        if self.saved_teacher and stored.saved_teacher:
            same["teacher"] = stored.teacher
        return self.model_copy(update=same)

    @property
    def saved_teacher(self) -> Path | None:
        """The folder of the teacher, if it is a saved network."""
        if self.teacher in (None, "supernet") or self.teacher.startswith("timm:"):
            return None
        return user_path(self.teacher)

    def held_out(self, count: int) -> int:
        """How many of so many training images are held out for validation."""
        return self.validate_images or min(5000, count // 5)

    def augment(self) -> Augment:
        """The random changes of training images. Raises BadInput."""
        return Augment(**{field.name: getattr(self, field.name) for field in fields(Augment)})


class SupernetConfig(TrainingConfig):
    """How a supernet is trained; configs/supernet/*.yaml hold presets.

    strategy: which archs a step trains; sandwich_random: of a sandwich the random ones.
    distill_inplace: what the others of a sandwich learn from its largest arch, in place of labels:
    its predictions by the Kullback-Leibler or AlphaNet's adaptive divergence.
    warmup_largest_passes: of `passes` the first ones, which train the largest arch alone.
    shrink_passes: the next ones, progressive shrinking: blocks keep the largest expansion, and in
    the first half of these passes none is left out.
    step_gradient: the sum or the mean over the archs of a step.
    zero_init_last: residual blocks start as the identity, their last batch norms with weight 0.
    affine_last: whether the last batch norms of candidates have a weight and a bias.
    bn: one batch norm per number of paths, or one for all.
    sharing: which weights the candidates of a block have in common: `expansion` makes a smaller one
    the first channels of the largest, `kernel` the centre of the largest, `both`, or `none`.
    passes: the budget in passes over the training images: an image that is run forward and
    backward through one arch counts once, so strategies are compared at equal cost; warmup_epochs
    and decay_epochs count likewise. calibrate_images: 2,016 at most where it is not set.

    The defaults are the recipe of the released MixPath code: plain momentum, weight decay for all;
    but archs are drawn fairly, and residual blocks start as the identity.
    """

    strategy: Literal["uniform", "fair", "sandwich"] = "fair"
    sandwich_random: NonNegative = 2
    distill_inplace: Literal["none", "kl", "adaptive"] = "none"
    warmup_largest_passes: Warmup = 0
    shrink_passes: Warmup = 0
    step_gradient: Literal["sum", "mean"] = "sum"
    zero_init_last: bool = True
    affine_last: bool = True
    bn: Literal["shadow", "shared"] = "shadow"
    sharing: Sharing = "none"
    passes: Duration = 200
    calibrate_images: Annotated[int, Field(ge=2, le=10**9)] | None = None

    optimizer: str = "momentum"
    lr: AboveZero = 0.025
    weight_decay: NotNegative = 3e-4
    filter_bias_and_bn: bool = False
    warmup_prefix: bool = True
    min_lr: NotNegative = 1e-8
    cutout: NonNegative = 16

    @model_validator(mode="before")
    @classmethod
    def _names_of_before(cls, data: Any) -> Any:
        """The keys as configs and runs of earlier versions have them."""
        earlier = {"sampler": "strategy", "warmup": "warmup_epochs"}
        return {earlier.get(k, k): v for k, v in data.items()} if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _has_a_largest_arch(self) -> "SupernetConfig":
        if self.distill_inplace != "none" and self.strategy != "sandwich":
            raise ValueError(
                f"distill_inplace {self.distill_inplace} learns from the largest arch of each "
                f"step: strategy {self.strategy} must be sandwich"
            )
        return self

    @model_validator(mode="after")
    def _passes_are_left(self) -> "SupernetConfig":
        first = {
            key: value
            for key in ("warmup_largest_passes", "shrink_passes")
            if (value := getattr(self, key))
        }
        if sum(first.values()) >= self.passes:
            named = " and ".join(f"{key} {value:g}" for key, value in first.items())
            raise ValueError(
                f"{named} must be less than the {self.passes:g} passes that they are a part of"
            )
        return self


class NetworkConfig(TrainingConfig):
    """How one network is trained, stand-alone; configs/train/*.yaml hold presets.

    epochs: passes over the training images; validate_every counts likewise. drop_rate: of the
    dropout before the classifier, the space's own if None; drop_path_rate: as `nn.Network` has it.
    """

    epochs: Duration = 100
    validate_every: Duration = 1
    drop_rate: Share | None = None
    drop_path_rate: Share = 0.0


def load_supernet_config(reference: str, overrides: list[str]) -> SupernetConfig:
    """A preset of configs/supernet by name, or a YAML file, with `key=value` overrides.

    Raises BadInput.
    """
    return load_settings(SupernetConfig, "supernet", reference, overrides)


def load_network_config(reference: str, overrides: list[str]) -> NetworkConfig:
    """As `load_supernet_config`, of configs/train."""
    return load_settings(NetworkConfig, "train", reference, overrides)
