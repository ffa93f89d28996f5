"""What a search by gradient has from a finished run whose supernet it goes on with (`--from`).

inherited.pt    its weights and, of a search, architecture parameters, so that the other run is not
                needed again
"""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from mobilenas.base.errors import BadInput
from mobilenas.base.settings import Record, validated
from mobilenas.runs import RunFolder
from mobilenas.strategies.config import SearchConfig
from mobilenas.strategies.darts_pt import DartsPt
from mobilenas.strategies.learned import LearnedStrategy
from mobilenas.strategies.methods import METHODS, method, strategy_name
from mobilenas.strategies.searchable import Searchable
from mobilenas.train.checkpoint import load_checkpoint, save_checkpoint
from mobilenas.train.config import TrainingConfig
from mobilenas.train.images import TrainingImages
from mobilenas.train.supernets import SupernetSettings, load_supernet, new_supernet
from mobilenas.train.trainer import CHECKPOINT

INHERITED = "inherited.pt"
_OF_IMAGES = ("limit", "validate_images", "stream", "eval_crop")  # keys of a config

log = logging.getLogger(__name__)


class InheritedSearch(Record):
    """Of a search: its strategy, and its config."""

    kind: ClassVar[str] = "search"
    strategy: str
    config: dict[str, Any]

    def supernet(self, searchable: Searchable, seed: int) -> nn.Module:
        """As the other search had it, with fresh weights."""
        generator = torch.Generator().manual_seed(seed)
        return self._kind.supernet(searchable, self._config, generator)

    def tuning(self, config: SearchConfig) -> SearchConfig:
        """The config with a tenth of the rate of the other search, where it says none itself."""
        return with_rate(config, self._config.lr / 10)

    def store(self, path: Path, parent: RunFolder, config: SearchConfig) -> None:
        """Copy what is inherited into a run folder, and warn of a config that would train it at its
        full rate again. Raises BadInput.
        """
        if config.lr > self._config.lr / 2:
            log.warning(
                "lr %g on a supernet that was trained with %g: a tenth of it suits its tuning",
                config.lr,
                self._config.lr,
            )
        state = load_checkpoint(parent.path / CHECKPOINT, "module", "task")
        if not isinstance(state["task"], dict) or "strategy" not in state["task"]:
            raise BadInput(f"{parent.path / CHECKPOINT} is not the checkpoint of a search")
        _store(path, {"module": state["module"], "strategy": state["task"]["strategy"]})

    def give(self, path: Path, module: nn.Module, strategy: LearnedStrategy, seed: int) -> None:
        """Put what a run folder holds into a supernet and a strategy, whose own rates the
        architecture learns by from here on. Raises BadInput.
        """
        assert isinstance(strategy, DartsPt)
        state = load_checkpoint(path / INHERITED, "module", "strategy")
        base = self._kind(strategy.choices, self._config, seed)
        try:
            module.load_state_dict(state["module"])
            base.load_state(state["strategy"])
        except Exception:  # they check little of what they are given
            raise _unfit(path) from None
        own = strategy.config
        for group in base.optimizer.param_groups:
            group["lr"], group["betas"] = own.arch_lr, own.arch_betas
            group["weight_decay"] = own.arch_weight_decay
        strategy.inherit(base)

    @property
    def _kind(self) -> type[LearnedStrategy]:
        return method(self.strategy).strategy

    @property
    def _config(self) -> SearchConfig:
        return validated(self._kind.Config, self.config, "inherits", "the config")


class InheritedSupernet(Record):
    """Of `supernet-train`: the settings of its run."""

    kind: ClassVar[str] = "supernet"
    run: SupernetSettings

    def supernet(self, searchable: Searchable, seed: int) -> nn.Module:
        """As it was trained, with fresh weights."""
        return new_supernet(self.run)

    def tuning(self, config: SearchConfig) -> SearchConfig:
        """The config: nothing is trained."""
        return config

    def store(self, path: Path, parent: RunFolder, config: SearchConfig) -> None:
        """Copy what is inherited into a run folder. Raises BadInput."""
        _store(path, {"module": load_supernet(parent).state_dict()})

    def give(self, path: Path, module: nn.Module, strategy: LearnedStrategy, seed: int) -> None:
        """Put what a run folder holds into a supernet, which is trained no further. Raises
        BadInput.
        """
        try:
            module.load_state_dict(load_checkpoint(path / INHERITED, "module")["module"])
        except Exception:
            raise _unfit(path) from None
        strategy.trains_weights = False


Inherited = InheritedSearch | InheritedSupernet


def inherit_from(
    kind: type[LearnedStrategy],
    own: SearchConfig,
    parent: RunFolder | None,
    images: TrainingImages | None,
) -> Inherited | None:
    """What a strategy has from another run, of the kind that it starts from. own: the config
    of the new run. images: of the other. Raises BadInput where it needs one, or not this one.
    """
    if parent is None or images is None:
        if kind.must_start_from:
            raise BadInput(
                f"strategy {strategy_name(kind)} starts from the supernet of a finished search: "
                "--from RUN must name its folder"
            )
        return None
    parent.check_finished()
    if parent.kind == "supernet":
        return InheritedSupernet(run=parent.read(SupernetSettings))
    check_has_name(parent)
    other = parent.settings["strategy"]
    inherited = InheritedSearch(strategy=other, config=parent.settings["config"])
    base, config = inherited._kind, inherited._config
    if not base.adds_up(config) or base.stages(config) > 1 or base.must_start_from:
        raise BadInput(
            f"{parent.path} is a search by {other}: --from needs one whose supernet adds up all "
            "candidates of the whole space, such as darts"
        )
    count = len(images.splits.validate)
    if count <= own.batch_size:  # by which all projections would be decided
        raise BadInput(
            f"{parent.path} is a search by {other} with validate_images {count}, one batch, of "
            f"which --from needs several: search again with validate_images above "
            f"{own.batch_size}, or with a batch_size below {count} here"
        )
    return inherited


def check_has_name(parent: RunFolder) -> None:
    """Raise BadInput for a search by a class of the user's own, which a run that goes on from it
    could not find again.
    """
    other = parent.settings.get("strategy")
    if other not in METHODS:
        raise BadInput(
            f"{parent.path} is a search by {other}, a class of your own: --from finds a strategy "
            "again by its name, so it needs a line in METHODS of mobilenas/strategies/methods.py"
        )


def with_images_of(config: SearchConfig, other: TrainingConfig) -> SearchConfig:
    """The config with what another one says of images, splits and their preparation, where it says
    nothing itself.
    """
    unset = {
        name
        for name in _OF_IMAGES
        if name not in config.model_fields_set or getattr(config, name) is None
    }
    return config.model_copy(update={name: getattr(other, name) for name in unset})


def with_rate(config: SearchConfig, rate: float) -> SearchConfig:
    """The config with a learning rate, where it says none itself."""
    return config if "lr" in config.model_fields_set else config.model_copy(update={"lr": rate})


def inherit_images(images: TrainingImages, config: SearchConfig, seed: int) -> TrainingImages:
    """The images of another run with its splits, prepared as its supernet was trained on them.
    config: of `with_images_of`. Raises BadInput where it says others.
    """
    for name in _OF_IMAGES:
        own, theirs = getattr(config, name), getattr(images.config, name)
        if own != theirs:
            raise BadInput(
                f"{name} {own}: the images are those of the other run, with {name} {theirs}; it "
                "must be left out with --from"
            )
    return replace(images, config=config, seed=seed)


def _store(path: Path, state: dict[str, Any]) -> None:
    path.mkdir(parents=True, exist_ok=True)
    save_checkpoint(path / INHERITED, state)


def _unfit(path: Path) -> BadInput:
    return BadInput(f"{path / INHERITED} does not fit what {path / 'run.json'} says")
