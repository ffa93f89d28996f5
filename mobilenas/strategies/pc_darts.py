"""PC-DARTS (Xu et al. 2020): mixtures on a part of the channels, edges with weights."""

import torch
from torch import Tensor, nn

from mobilenas.base.errors import BadInput
from mobilenas.nn import EdgeCellSupernet
from mobilenas.space import EdgeCellSpace
from mobilenas.strategies.choices import Choices
from mobilenas.strategies.config import SearchConfig
from mobilenas.strategies.learned import LearnedStrategy
from mobilenas.strategies.searchable import Searchable
from mobilenas.train.config import Positive


class PcDartsConfig(SearchConfig):
    """parts: ops take the first of so many parts of the channels."""

    parts: Positive = 2


class PcDarts(LearnedStrategy):
    """DARTS of first order through edges whose ops take the first of some parts of the channels;
    the others pass by, and behind each edge the channels are shuffled.

    A node is the sum of its edges, each times b, the softmax of parameters of their own over the
    edges into it: without, which channels are taken would change what an edge counts. Where nodes
    keep some of their edges, an op is worth its probability times the b of its edge.
    """

    Config = PcDartsConfig
    config: PcDartsConfig

    @classmethod
    def check(cls, searchable: Searchable, config: SearchConfig) -> None:
        """Raises BadInput for blocks."""
        if not isinstance(searchable.space, EdgeCellSpace):
            raise BadInput(
                f"space {searchable.space.name}: pc-darts lets channels pass by an edge's ops, "
                "and blocks change size and channels; it takes cells: nb201, darts"
            )

    @classmethod
    def supernet(
        cls, searchable: Searchable, config: SearchConfig, generator: torch.Generator
    ) -> nn.Module:
        """The supernet with edges on parts of the channels. Raises BadInput for other parts."""
        assert isinstance(searchable.space, EdgeCellSpace) and isinstance(config, PcDartsConfig)
        return EdgeCellSupernet(searchable.space, parts=config.parts, generator=generator)

    def sizes(self, choices: Choices) -> list[int]:
        """Parameters of each edge's ops, then of each node's edges."""
        return choices.sizes + [len(node.candidates) for node in choices.inputs]

    def inputs(self) -> list[Tensor]:
        """Of each node the weights of the edges into it, which sum to 1."""
        return [beta.softmax(0) for beta in self.parameters[len(self.choices.ops) :]]
