"""What a search by gradient has from a finished one whose supernet it goes on with (`--from`).

inherited.pt    its weights and architecture parameters, so that the other run is not needed again
"""

from pathlib import Path
from typing import Any

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
from mobilenas.train.trainer import CHECKPOINT

INHERITED = "inherited.pt"


class Inherited(Record):
    """The strategy of the other search, and its config."""

    strategy: str
    config: dict[str, Any]

    def supernet(self, searchable: Searchable, seed: int) -> nn.Module:
        """As the other search had it, with fresh weights."""
        generator = torch.Generator().manual_seed(seed)
        return self._kind.supernet(searchable, self._config, generator)

    def store(self, path: Path, parent: RunFolder) -> None:
        """Copy what is inherited into a run folder. Raises BadInput."""
        state = load_checkpoint(parent.path / CHECKPOINT, "module", "task")
        kept = {"module": state["module"], "strategy": state["task"]["strategy"]}
        path.mkdir(parents=True, exist_ok=True)
        save_checkpoint(path / INHERITED, kept)

    def give(self, path: Path, module: nn.Module, strategy: LearnedStrategy, seed: int) -> None:
        """Put what a run folder holds into a supernet and a strategy. Raises BadInput."""
        assert isinstance(strategy, DartsPt)
        file = path / INHERITED
        state = load_checkpoint(file, "module", "strategy")
        base = self._kind(strategy.choices, self._config, seed)
        try:
            module.load_state_dict(state["module"])
            base.load_state(state["strategy"])
        except Exception:  # they check little of what they are given
            raise BadInput(f"{file} does not fit what {path / 'run.json'} says") from None
        strategy.inherit(base)

    @property
    def _kind(self) -> type[LearnedStrategy]:
        return method(self.strategy).strategy

    @property
    def _config(self) -> SearchConfig:
        return validated(self._kind.Config, self.config, "inherits", "the config")


def check_parent(
    kind: type[LearnedStrategy], parent: RunFolder | None, config: SearchConfig | None
) -> None:
    """Raises BadInput where a strategy needs another search, takes none, or not this one. config:
    of the other search.
    """
    strategy = strategy_name(kind)
    if not kind.inherits:
        if parent is not None:
            takes = [name for name, x in METHODS.items() if x.strategy.inherits]
            raise BadInput(
                f"--from: strategy {strategy} starts from fresh weights; it is for "
                f"{' and '.join(takes)}"
            )
        return
    if parent is None or config is None:
        raise BadInput(
            f"strategy {strategy} starts from the supernet of a finished search: --from RUN must "
            "name its folder"
        )
    parent.check_finished()
    other = parent.settings["strategy"]
    base = method(other).strategy
    if not base.adds_up(config) or base.stages(config) > 1 or base.inherits:
        raise BadInput(
            f"{parent.path} is a search by {other}: --from needs one whose supernet adds up all "
            "candidates of the whole space, such as darts"
        )
