"""The parts of a recipe, from timm: optimizer, schedule, moving average, mixed images."""

import difflib
import logging
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mobilenas.base.errors import BadInput
from mobilenas.base.randomness import Stream, fixed_generators
from mobilenas.train.config import TrainingConfig
from mobilenas.train.distill import Teacher, distillation

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schedule:
    """The learning rate as a function of the step, by timm's scheduler of the config's name.

    Warm-up is linear. It takes the place of the schedule's first rates, or, with warmup_prefix, the
    schedule starts after it. `cosine` and `poly` would reach min_lr one step after the last, `step`
    multiplies the rate by decay_rate every decay_epochs.
    """

    scheduler: object

    def set(self, step: float) -> None:
        """Give the optimizer its rate of that step."""
        self.scheduler.step_update(step)  # type: ignore[attr-defined]


# Of timm's optimizers those that do not go with a training here, and why.
_REFUSED = {
    "adahessian": "it needs second derivatives, which a step has not",
    "kron": "it draws random numbers, so that a resumed training would come to other weights",
}


def make_optimizer(config: TrainingConfig, network: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of the config over a network. Raises BadInput for what timm does not know."""
    from timm.optim import create_optimizer_v2, list_optimizers

    known = list_optimizers()
    if config.optimizer in _REFUSED:
        raise BadInput(f"optimizer {config.optimizer}: {_REFUSED[config.optimizer]}")
    if config.optimizer not in known:
        near = difflib.get_close_matches(config.optimizer, known, n=1) or ["sgd"]
        raise BadInput(f"optimizer {config.optimizer}: timm has none; did you mean {near[0]}?")
    # One kernel for all weights. On a CPU its rounding is another one.
    on_cuda = all(parameter.is_cuda for parameter in network.parameters())
    fuses = on_cuda and config.optimizer in ("sgd", "momentum")
    fused = {"fused": True} if fuses and "foreach" not in config.optimizer_options else {}
    try:
        return create_optimizer_v2(
            network,
            config.optimizer,
            lr=config.lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            filter_bias_and_bn=config.filter_bias_and_bn,
            **(fused | config.optimizer_options),
        )
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        options = f" with {config.optimizer_options}" if config.optimizer_options else ""
        raise BadInput(f"optimizer {config.optimizer}{options}: {error}") from None


def make_schedule(
    config: TrainingConfig, optimizer: torch.optim.Optimizer, steps: float, steps_per_epoch: float
) -> Schedule:
    """The schedule of `steps` steps in all, by `Task.position`."""
    from timm.scheduler import CosineLRScheduler, PolyLRScheduler, StepLRScheduler

    logging.getLogger("timm.scheduler").setLevel(logging.ERROR)  # it warns of a single step
    warmup = config.warmup_epochs * steps_per_epoch
    if warmup >= steps + 1:  # a training is of whole steps
        log.warning(
            "warmup_epochs %g: training ends after %.3g, before the rate has risen to lr %g",
            *(config.warmup_epochs, steps / steps_per_epoch, config.lr),
        )
    if config.warmup_prefix:  # the first rate after it is the full one
        first, length = config.lr / (warmup + 1), steps - warmup
    else:
        warmup = round(warmup)
        first, length = config.lr / max(1, warmup), steps
    common = {
        "warmup_t": warmup,
        "warmup_lr_init": first,
        "warmup_prefix": config.warmup_prefix,
        "t_in_epochs": False,
    }
    for group in optimizer.param_groups:  # which checkpoints of earlier versions lack
        group.setdefault("initial_lr", config.lr)
    if config.schedule == "step":
        decay_t = config.decay_epochs * steps_per_epoch
        return Schedule(StepLRScheduler(optimizer, decay_t, config.decay_rate, **common))
    kind = {"cosine": CosineLRScheduler, "poly": PolyLRScheduler}[config.schedule]
    return Schedule(kind(optimizer, max(1, length), lr_min=config.min_lr, **common))


def make_average(config: TrainingConfig, network: nn.Module) -> "nn.Module | None":
    """The moving average of a network (timm's ModelEmaV3), None where the config has none."""
    if config.ema_decay is None:
        return None
    from timm.utils import ModelEmaV3

    return ModelEmaV3(network, decay=config.ema_decay, use_warmup=True)


class Mixer:
    """Mixup and cutmix (timm's Mixup) as functions of (seed, step).

    Image i of the joint batch is mixed with image n - 1 - i. Without either, images and labels stay
    as they are.
    """

    def __init__(self, config: TrainingConfig, num_classes: int, seed: int) -> None:
        self.seed = seed
        self.mixup = None
        if config.mixup or config.cutmix:
            from timm.data import Mixup

            self.mixup = Mixup(
                config.mixup,
                config.cutmix,
                label_smoothing=config.label_smoothing,
                num_classes=num_classes,
            )

    def __call__(self, images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Images and, where they were mixed, the shares of each class (n, classes)."""
        if self.mixup is None:
            return images, labels
        with fixed_generators(self.seed, Stream.MIX, step):
            mixed: tuple[Tensor, Tensor] = self.mixup(images, labels)
        return mixed


class Objective:
    """The loss that a config asks for: cross-entropy, smoothed, with mixed images and a teacher.

    num_classes: of the images. teacher: whose softened predictions are a part of the loss.
    """

    def __init__(
        self, config: TrainingConfig, num_classes: int, seed: int, teacher: Teacher | None
    ) -> None:
        self.config = config
        self.mixer = Mixer(config, num_classes, seed)
        self.teacher = teacher

    def mix(self, images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """What a step trains on: see `Mixer`."""
        return self.mixer(images, labels, step)

    def taught(self, images: Tensor) -> Tensor | None:
        """The teacher's logits (n, classes), None without one."""
        return None if self.teacher is None else self.teacher(images)

    def loss(self, logits: Tensor, target: Tensor, taught: Tensor | None) -> Tensor:
        """The loss of logits (n, classes); in float32, whatever they were computed in."""
        loss = cross_entropy(logits.float(), target, self.config.label_smoothing)
        if taught is None:
            return loss
        softened = distillation(logits.float(), taught.float(), self.config.distill_temperature)
        return torch.lerp(loss, softened, self.config.distill_weight)


def cross_entropy(logits: Tensor, target: Tensor, label_smoothing: float) -> Tensor:
    """The loss for labels (n,), smoothed, or for shares (n, classes), which mixing has smoothed."""
    smoothing = 0.0 if target.is_floating_point() else label_smoothing
    return nn.functional.cross_entropy(logits, target, label_smoothing=smoothing)
