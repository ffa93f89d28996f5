"""What the user asks of `mobilenas search`, and the run that is made or resumed by it."""

from dataclasses import dataclass, field
from pathlib import Path

from mobilenas.cost.budget import Budget
from mobilenas.evaluate.truth import Truth
from mobilenas.runs import RunFolder
from mobilenas.space import NetworkSpace, load_network_space
from mobilenas.stages.benchmark import read_truths
from mobilenas.stages.gradient_run import (
    GradientRun,
    create_search_run,
    open_parent,
    resume_search_run,
)
from mobilenas.strategies.config import SearchConfig
from mobilenas.strategies.methods import load_search_config
from mobilenas.train.images import data_place


@dataclass(frozen=True)
class SearchAsked:
    """The options of the command. given: the names of those that the user gave, which are compared
    with a run that is resumed. parent: the run whose weights, space and data are taken.
    """

    strategy: str
    space: str
    data: str
    budget: Budget
    preset: str | None
    overrides: tuple[str, ...]
    parent: Path | None
    benchmark: str | None
    data_root: Path | None
    given: frozenset[str]
    _truths: dict[str, Truth] = field(default_factory=dict)

    @property
    def moved(self) -> str | None:
        """Where the images are now, if the user says so."""
        return self.data if "data" in self.given else None

    def config(self) -> SearchConfig:
        """How a new run searches. Raises BadInput."""
        return load_search_config(self.strategy, self.preset, list(self.overrides))

    def truths(self, space: NetworkSpace) -> dict[str, Truth]:
        """The published accuracies to compare with, if there are to be any; read once, as all
        searches are in one space. Raises BadInput.
        """
        if self.benchmark and not self._truths:
            self._truths.update(read_truths(self.benchmark, self.data_root, space))
        return self._truths

    def create(self, path: Path, seed: int) -> GradientRun:
        """A new run. Raises BadInput, and InfeasibleBudget."""
        parent = open_parent(self.strategy, self.parent, self.moved) if self.parent else None
        space: NetworkSpace = load_network_space(self.space)
        if parent and "space" not in self.given:
            space = parent.space  # type: ignore[assignment]
        data = data_place(parent.folder) if parent else self.data
        self.truths(space)  # what cannot be compared is known before anything is trained
        return create_search_run(
            path, self.strategy, space, data, seed, self.config(), self.budget, parent
        )

    def resume(self, path: Path, seed: int | None) -> GradientRun:
        """The run in a folder, as far as it is what is asked. Raises BadInput."""
        strategy = self.strategy if "strategy" in self.given else None
        config = None
        if self.overrides or self.preset:
            known = RunFolder.to_resume(path, "search").settings.get("strategy", self.strategy)
            config = load_search_config(strategy or known, self.preset, list(self.overrides))
        return resume_search_run(
            path,
            {
                "strategy": strategy,
                "space": load_network_space(self.space) if "space" in self.given else None,
                "data": self.moved,
                "seed": seed,
                "config": config,
                "budget": self.budget,
            },
        )
