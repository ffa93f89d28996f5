"""MergeNAS (Wang et al. 2020): the convolutions of a choice are one, with the sum of kernels."""

import logging
import re
from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor, nn

from mobilenas.base.errors import BadInput
from mobilenas.base.randomness import Stream
from mobilenas.nn import EdgeCellSupernet, Supernet
from mobilenas.nn.merged import is_convolution
from mobilenas.nn.views import Views
from mobilenas.space import Block, Candidate, EdgeCellSpace, Space
from mobilenas.strategies.choices import Choices
from mobilenas.strategies.config import SearchConfig
from mobilenas.strategies.learned import LearnedStrategy
from mobilenas.strategies.search_step import SearchStep
from mobilenas.strategies.searchable import Searchable

log = logging.getLogger(__name__)

_PATHS = re.compile(r"(e\d+k)(\d+)")  # of a candidate of a block: e6k35


class MergeNasConfig(SearchConfig):
    """two_level: whether the convolutions of an edge, behind their batch norm, are multiplied by
    the sum of their weights; those of a block always are.
    """

    two_level: bool = False


class MergeNas(LearnedStrategy):
    """DARTS of first order through edges and blocks whose convolutions are merged.

    On an edge the kernel is the sum of masks of one tensor, weighted by the softmax over all ops.
    On a block there is a parameter for each path, a kernel of an expansion: the kernel of an
    expansion is the sum of kernels, weighted by the softmax over paths, so that subsets of paths
    cannot be told apart. A candidate is worth the sum of its paths' probabilities, over that of all
    candidates: the most probable one has the strongest paths, as many as there may be.
    """

    Config = MergeNasConfig
    is_dense = False  # kernels are added up, so that no candidate could be taken out (darts-pt)
    config: MergeNasConfig

    def __init__(self, choices: Choices, config: MergeNasConfig, seed: int) -> None:
        self.alone = [_alone(choice.candidates) for choice in choices.ops]
        super().__init__(choices, config, seed)
        self._parts = [
            torch.tensor([[float(each[i] in _paths(c)) for i in alone] for c in each])
            for each, alone in zip((c.candidates for c in choices.ops), self.alone, strict=True)
        ]

    @classmethod
    def check(cls, searchable: Searchable, config: SearchConfig) -> None:
        """Raises BadInput where there are no convolutions that could be one."""
        space = searchable.space
        if isinstance(space, EdgeCellSpace):
            convolutions = [op for op in space.spec.ops if is_convolution(op)]
            if len({op.startswith("nor") for op in convolutions}) > 1:
                raise BadInput(
                    f"space {space.name}: ops {', '.join(convolutions)} cannot be merged, some are "
                    "dense and some depthwise"
                )
            several = len(convolutions) > 1
        else:
            for block in space.blocks:
                _check_block(space.name, block)
            several = any(_merges(block) for block in space.blocks)
        if not several:
            raise BadInput(f"space {space.name}: no choice has kernels that could be merged")
        if isinstance(space, Space) and (lacking := _lacking(space)):
            log.warning(
                "%s: no candidate %s; mergenas learns what paths are worth, and takes the best of "
                "the subsets that are there",
                *lacking,
            )

    @classmethod
    def supernet(
        cls, searchable: Searchable, config: SearchConfig, generator: torch.Generator
    ) -> nn.Module:
        """The supernet with merged convolutions."""
        assert isinstance(config, MergeNasConfig)
        if isinstance(searchable.space, EdgeCellSpace):
            merged = "two_level" if config.two_level else "flat"
            return EdgeCellSupernet(searchable.space, merged=merged, generator=generator)  # type: ignore[arg-type]
        return Supernet(searchable.space, merged=True, generator=generator)

    def sizes(self, choices: Choices) -> list[int]:
        """A parameter for each op, or path."""
        return [len(alone) for alone in self.alone]

    def probabilities(self) -> list[Tensor]:
        """Of each choice those of its candidates, from those of its paths."""
        worth = [
            parts.to(alpha) @ alpha.softmax(0)
            for parts, alpha in zip(self._parts, self.parameters, strict=True)
        ]
        return [each / each.sum() for each in worth]

    def views(self, step: SearchStep, stream: Stream) -> Views:
        """All candidates of a single path, which are those paths."""
        return [
            dict(zip(alone, alpha.softmax(0).unbind(), strict=True))
            for alone, alpha in zip(self.alone, self.parameters, strict=True)
        ]


def _paths(name: str) -> list[str]:
    """The candidates of a single path that one is made of: e6k35 of e6k3 and e6k5."""
    match = _PATHS.fullmatch(name)
    return [match[1] + kernel for kernel in match[2]] if match else [name]


def _alone(candidates: Sequence[str]) -> list[int]:
    return [index for index, name in enumerate(candidates) if _paths(name) == [name]]


def _check_block(space: str, block: Block) -> None:
    """Raises BadInput where merged kernels would not stand for what its candidates are."""
    where = f"space {space}, {block.name}"
    if block.groups > 1:
        raise BadInput(f"{where}: mergenas takes blocks of one channel group")
    if block.max_paths > 1 and not block.has_linear_paths:
        raise BadInput(
            f"{where}: paths with an activation each cannot be merged; take "
            "path_activation=after_sum, or candidates.max_paths=1"
        )
    for expansion, kernels in _kernels(block).items():
        for kernel in kernels:
            candidate = Candidate(expansion, ((kernel,),))
            if candidate not in block.candidates:
                raise BadInput(
                    f"{where}: there is no candidate {candidate}; mergenas learns paths, so each "
                    "must be a candidate of its own"
                )


def _lacking(space: Space) -> tuple[str, Candidate] | None:
    """A block, and a subset of as many of its paths as others have that is no candidate."""
    for block in space.blocks:
        for expansion, kernels in _kernels(block).items():
            most = max(c.num_paths for c in block.candidates if c.expansion == expansion)
            for subset in (s for n in range(2, most + 1) for s in combinations(kernels, n)):
                candidate = Candidate(expansion, (subset,))
                if candidate not in block.candidates:
                    return f"{space.name}, {block.name}", candidate
    return None


def _kernels(block: Block) -> dict[int, list[int]]:
    """The kernels of each expansion."""
    return {
        e: sorted({k for c in block.candidates if c.expansion == e for k in c.kernels[0]})
        for e in block.expansions
    }


def _merges(block: Block) -> bool:
    return any(len(kernels) > 1 for kernels in _kernels(block).values())
