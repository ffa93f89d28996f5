"""P-DARTS (Chen et al. 2019): DARTS in stages, deeper and with fewer candidates each time."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from mobilenas.base.errors import BadInput
from mobilenas.space import Arch, EdgeCellSpace, Genotype
from mobilenas.strategies.config import SearchConfig
from mobilenas.strategies.learned import LearnedStrategy, normalised
from mobilenas.strategies.search_step import SearchStep
from mobilenas.strategies.searchable import Searchable
from mobilenas.strategies.stage import Kept, Stage
from mobilenas.train.config import AboveZero, NonNegative, Share

_CLIP = 5.0  # largest norm of an architecture gradient, as released
_EPOCHS = 25  # of a stage as released, by which the dropout of shortcuts falls
_DEPTHS = (0.3, 0.65, 1.0)  # share of the cells: 5, 11, 17 of 17; the last one's from there on
_FIRST_BLOCKS = 2  # of each stage of a space of blocks, at first; one more each time

_Part = Annotated[float, Field(gt=0, lt=1)]


class PdartsConfig(SearchConfig):
    """keep: share of its candidates that a choice keeps after each stage but the last, at least
    two. epochs, weights_first: of each stage. skip_dropout: of shortcuts, at the start of each
    stage. skip_limit: most shortcuts of the derived arch, in its normal cell.
    """

    keep: Annotated[tuple[_Part, ...], Field(min_length=1, max_length=8)] = (5 / 8, 3 / 8)
    skip_dropout: tuple[Share, ...] = (0.0, 0.4, 0.7)
    skip_limit: NonNegative | None = 2
    arch_lr: AboveZero = 6e-4

    @model_validator(mode="after")
    def _fits(self) -> "PdartsConfig":
        if list(self.keep) != sorted(set(self.keep), reverse=True):
            raise ValueError(f"keep {list(self.keep)} must fall from stage to stage")
        if len(self.skip_dropout) != len(self.keep) + 1:
            raise ValueError(
                f"skip_dropout {list(self.skip_dropout)} must be {len(self.keep) + 1} numbers, one "
                "a stage"
            )
        return self


class Pdarts(LearnedStrategy):
    """A stage is DARTS of first order with new weights and parameters; what goes on to the next is
    which candidates each choice keeps, its most probable ones. Shortcuts have a dropout.

    The number of shortcuts is limited by deriving again without the weakest one; a budget that
    needs more of them is met all the same.
    """

    Config = PdartsConfig
    config: PdartsConfig

    @classmethod
    def check(cls, searchable: Searchable, config: SearchConfig) -> None:
        """Raises BadInput for a limit that is larger than all that an arch has."""
        assert isinstance(config, PdartsConfig)
        largest = max(searchable.choices.sizes)
        counts = [largest, *(kept_count(share, largest) for share in config.keep)]
        if any(now == then > 2 for then, now in pairwise(counts)):
            raise BadInput(
                f"keep {list(config.keep)}: of {largest} candidates the stages have {counts}; each "
                "must have fewer than the one before"
            )
        space, count, of = searchable.space, len(searchable.choices.ops), "blocks"
        if isinstance(space, EdgeCellSpace):
            taken = sum(node.taken for node in searchable.choices.inputs)
            count, of = taken // len(space.skeleton.types), "edges a cell"
        if config.skip_limit is not None and config.skip_limit > count:
            raise BadInput(
                f"skip_limit {config.skip_limit}: an arch of {space.name} has {count} {of}; it "
                "must be at most that"
            )

    @classmethod
    def stages(cls, config: SearchConfig) -> int:
        """As many as the settings say."""
        assert isinstance(config, PdartsConfig)
        return len(config.keep) + 1

    @classmethod
    def stage(
        cls, searchable: Searchable, config: SearchConfig, number: int, kept: Kept
    ) -> Searchable:
        """Cells of the network, or blocks of each of its stages, by the number of the stage."""
        space, last = searchable.space, number + 1 == cls.stages(config)
        if isinstance(space, EdgeCellSpace):
            least = 1 if space.spec.skeleton == "nb201" else 3
            share = 1.0 if last else _DEPTHS[min(number, len(_DEPTHS) - 1)]
            depth = max(least, round(share * space.spec.cells))
        else:
            most = max(stage.blocks for stage in space.spec.stages)
            depth = most if last else _FIRST_BLOCKS + number
        return Stage(searchable, number, depth, kept)

    @classmethod
    def supernet(
        cls, searchable: Searchable, config: SearchConfig, generator: torch.Generator
    ) -> nn.Module:
        """Dropout in the place of shortcuts, none where it is 0."""
        assert isinstance(config, PdartsConfig)
        supernet = super().supernet(searchable, config, generator)
        rate = config.skip_dropout[searchable.stage]
        for name, module in [*supernet.named_modules()]:
            if rate and _is_shortcut(name, module):
                supernet.set_submodule(name, nn.Dropout(rate))
        return supernet

    def learn(self, step: SearchStep) -> None:
        """An architecture step."""
        self._set_dropout(step)
        super().learn(step)

    def fit(self, step: SearchStep) -> None:
        """A weight step."""
        self._set_dropout(step)
        super().fit(step)

    def apply(self, gradients: Sequence[Tensor]) -> None:
        """A step along gradients whose joint norm is at most 5."""
        norm = float(torch.cat(list(gradients)).norm())
        super().apply([g * min(1.0, _CLIP / max(norm, 1e-12)) for g in gradients])

    def survivors(self, searchable: Searchable) -> Kept:
        """The most probable candidates of each choice, of equal ones the first."""
        share = self.config.keep[searchable.stage]
        kept = {}
        choices = searchable.whole.choices.ops
        for choice, p in zip(choices, searchable.spread(self.probabilities()), strict=True):
            count = kept_count(share, len(p))
            best = p.detach().argsort(descending=True, stable=True)[:count].sort().values
            kept[choice.name] = [choice.candidates[i] for i in best.tolist()]
        return kept

    def derive(self, searchable: Searchable, limits: Mapping[str, float]) -> Arch | Genotype | None:
        """The arch that the search ends in, None where no arch is within limits."""
        probabilities = [normalised(p) for p in searchable.spread(self.probabilities())]
        whole, limit = searchable.whole, self.config.skip_limit
        while True:
            arch = whole.derive(probabilities, limits)
            if arch is None or limit is None:
                return arch
            genes = whole.space.encode(arch)  # type: ignore[arg-type]
            skips = [
                (probabilities[place][index], place, index)
                for place, index in whole.choices.skips
                if genes[place] == index and not whole.choices.ops[place].name.startswith("reduce ")
            ]
            open_ones = [skip for skip in skips if skip[0] > 0]
            if len(skips) <= limit or not open_ones:
                return arch
            _, place, index = min(open_ones)
            probabilities[place][index] = 0

    def _set_dropout(self, step: SearchStep) -> None:
        start = self.config.skip_dropout[step.searchable.stage]
        rate = dropout(start, step.n / step.steps, self.config.weights_first)
        for name, module in step.trainer.module.named_modules():
            if isinstance(module, nn.Dropout) and _is_shortcut(name, module):
                module.p = rate


def kept_count(share: float, candidates: int) -> int:
    """How many of its candidates a choice keeps: of five ops three and two, of eight five and
    three, as published. Of blocks, for which nothing is published, it is rounded too.
    """
    return max(2, math.floor(share * candidates + 0.5))


def dropout(start: float, progress: float, first: float) -> float:
    """Of shortcuts, when that share of a stage lies behind, of which the share `first` trains the
    weights alone. As released it falls slowly at first, jumps back to the start and then falls by
    exp(-0.2) an epoch of 25.
    """
    epoch, turn = math.floor(_EPOCHS * progress + 1e-9), round(_EPOCHS * first)
    if epoch < turn:
        return start * (_EPOCHS - epoch - 1) / _EPOCHS
    return start * math.exp(-0.2 * (epoch - turn))


def _is_shortcut(name: str, module: nn.Module) -> bool:
    """Whether a module of a supernet passes on its input: an op of an edge, or of a block."""
    *_, parent, own = ("", "", *name.split("."))
    is_op = name.startswith("cells.") and ".edges." in name and own.isdigit() and parent.isdigit()
    return isinstance(module, nn.Identity | nn.Dropout) and (is_op or own == "identity")
