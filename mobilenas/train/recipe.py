"""The parts of a recipe, from timm: optimizer, schedule, moving average, mixed images."""

import difflib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mobilenas.base.errors import BadInput
from mobilenas.base.randomness import Stream, fixed_generators
from mobilenas.train.config import TrainConfig


@dataclass(frozen=True)
class Schedule:
    """The learning rate as a function of the step, by timm's scheduler of the config's name.

    All count from the first step; warm-up, linear from lr / its number of steps, takes the place of
    their first rates. `cosine` and `poly` would reach min_lr one step after the last, `step`
    multiplies the rate by decay_rate every decay_epochs.
    """

    scheduler: object

    def set(self, step: int) -> None:
        """Give the optimizer its rate of that step."""
        self.scheduler.step_update(step)  # type: ignore[attr-defined]


def make_optimizer(config: TrainConfig, network: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of the config over a network. Raises BadInput for what timm does not know."""
    from timm.optim import create_optimizer_v2, list_optimizers

    known = list_optimizers()
    if config.optimizer not in known:
        near = difflib.get_close_matches(config.optimizer, known, n=1) or ["sgd"]
        raise BadInput(f"optimizer {config.optimizer}: timm has none; did you mean {near[0]}?")
    try:
        return create_optimizer_v2(
            network,
            config.optimizer,
            lr=config.lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            **config.optimizer_options,
        )
    except (TypeError, ValueError, AssertionError) as error:
        options = f" with {config.optimizer_options}" if config.optimizer_options else ""
        raise BadInput(f"optimizer {config.optimizer}{options}: {error}") from None


def make_schedule(
    config: TrainConfig, optimizer: torch.optim.Optimizer, steps: int, steps_per_epoch: int
) -> Schedule:
    """The schedule of `steps` steps in all."""
    from timm.scheduler import CosineLRScheduler, PolyLRScheduler, StepLRScheduler

    warmup = round(config.warmup_epochs * steps_per_epoch)
    common = {
        "warmup_t": warmup,
        "warmup_lr_init": config.lr / max(1, warmup),
        "warmup_prefix": False,
        "t_in_epochs": False,
    }
    if config.schedule == "step":
        decay_t = config.decay_epochs * steps_per_epoch
        return Schedule(StepLRScheduler(optimizer, decay_t, config.decay_rate, **common))
    kind = {"cosine": CosineLRScheduler, "poly": PolyLRScheduler}[config.schedule]
    return Schedule(kind(optimizer, max(1, steps), lr_min=config.min_lr, **common))


def make_average(config: TrainConfig, network: nn.Module) -> "nn.Module | None":
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

    def __init__(self, config: TrainConfig, num_classes: int, seed: int) -> None:
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


def cross_entropy(logits: Tensor, target: Tensor, label_smoothing: float) -> Tensor:
    """The loss for labels (n,), smoothed, or for shares (n, classes), which mixing has smoothed."""
    smoothing = 0.0 if target.is_floating_point() else label_smoothing
    return nn.functional.cross_entropy(logits, target, label_smoothing=smoothing)
