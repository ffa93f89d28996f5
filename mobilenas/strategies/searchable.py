"""What a strategy searches: the choices of a space, whatever it is built of."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from mobilenas.base.errors import BadInput
from mobilenas.cost.derive import most_probable
from mobilenas.cost.edge_model import Costs
from mobilenas.nn import EdgeCellSupernet, Supernet
from mobilenas.nn.edge_cells import place_views
from mobilenas.nn.views import Views
from mobilenas.space import Arch, Block, Choice, EdgeCellSpace, Genotype, NetworkSpace, Space
from mobilenas.strategies.choices import Choices


class Searchable:
    """A space of blocks, or of cells whose edges have ops, with the costs of its archs.

    choices: a block, or an edge of a type of cells, is one. stage: of a search in several, from 0
    on (`stage.Stage`).
    """

    stage = 0

    def __init__(self, costs: Costs) -> None:
        self.costs = costs
        self.space: NetworkSpace = costs.space
        if isinstance(self.space, Space):
            blocks = enumerate(self.space.blocks, 1)
            named = (Choice(f"block {n}", tuple(map(str, b.candidates))) for n, b in blocks)
            self.choices = Choices(tuple(named), alike=_alike(self.space))
        else:
            self.choices = Choices(tuple(self.space.choices), tuple(self.space.inputs))

    def supernet(
        self, *, dense: bool, shadow_bn: bool, generator: torch.Generator
    ) -> Supernet | EdgeCellSupernet:
        """Fresh weights. dense: whether candidates are added up, so that their last batch norms
        must not rescale them; those of ops on edges never do.
        """
        if isinstance(self.space, EdgeCellSpace):
            return EdgeCellSupernet(self.space, generator=generator)
        return Supernet(self.space, shadow_bn=shadow_bn, affine_last=not dense, generator=generator)

    def placed(self, views: Views) -> Views:
        """Views of all places of the supernet, from one for each of the ops, and maybe one for each
        of the inputs: cells of a type have the same.
        """
        if isinstance(self.space, EdgeCellSpace):
            count = len(self.choices.ops)
            return place_views(self.space, views[:count], views[count:] or None)
        return views

    @property
    def layers(self) -> list[list[list[int]]]:
        """Groups of layers that are alike: cells of a type, or blocks. Of each layer the places of
        its ops in the supernet.
        """
        if isinstance(self.space, Space):
            return [[[place] for place in group] for group in self.choices.alike]
        edges, size = len(self.space.edges), len(self.space.edges) + len(self.space.nodes)
        places = [[*range(n * size, n * size + edges)] for n in range(len(self.space.shapes))]
        pairs = [*zip(self.space.shapes, places, strict=True)]
        kinds = range(len(self.space.skeleton.types))
        return [[layer for shape, layer in pairs if shape.kind == kind] for kind in kinds]

    @property
    def whole(self) -> "Searchable":
        """The space that archs are derived in: this one."""
        return self

    def spread(self, probabilities: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The probabilities of the choices of the whole space."""
        return list(probabilities)

    def executed(self, views: Views) -> float:
        """How many candidates of a choice views run, on average; edges that no node takes are not
        run.
        """
        ops = views[: len(self.choices.ops)]
        counts = [1 if isinstance(view, int) else len(view) for view in ops]
        for into, view in zip(self.choices.into, views[len(ops) :], strict=False):
            taken = [view] if isinstance(view, int) else view
            counts[into] = [n if i in taken else 0 for i, n in enumerate(counts[into])]
        return sum(counts) / len(counts)

    def check_limits(self, limits: Mapping[str, float]) -> None:
        """Raises BadInput where an arch cannot be derived within limits."""
        if limits and isinstance(self.space, EdgeCellSpace) and self.space.skeleton.in_degree:
            raise BadInput(
                f"space {self.space.name}: its nodes keep the two strongest edges, whatever they "
                "cost; it takes no budget"
            )

    def derive(
        self,
        probabilities: Sequence[NDArray[np.float64]],
        limits: Mapping[str, float],
        inputs: Sequence[NDArray[np.float64]] = (),
    ) -> Arch | Genotype | None:
        """The most probable arch within limits, None where no arch is; in cells of which a node
        keeps some edges, those by `EdgeCellSpace.strongest`, with what each of the inputs is worth.
        """
        if isinstance(self.space, EdgeCellSpace) and self.space.skeleton.in_degree:
            return self.space.strongest(probabilities, inputs or None)
        return most_probable(self.costs, probabilities, limits)

    def name(self, genes: Sequence[int]) -> str:
        """What is said of the candidates of all choices."""
        if isinstance(self.space, Space):
            return f"arch {self.space.decode(np.array(genes))}"
        names = (c.candidates[g] for c, g in zip(self.choices.ops, genes, strict=True))
        return f"ops {' '.join(names)}"


def _alike(space: Space) -> tuple[tuple[int, ...], ...]:
    free = (n for n, stage in enumerate(space.spec.stages) if stage.fixed is None)
    stages = [n for n in free for _ in range(space.spec.stages[n].blocks)]
    groups: dict[tuple[int, Block], list[int]] = {}
    for place, (stage, block) in enumerate(zip(stages, space.blocks, strict=True)):
        groups.setdefault((stage, replace(block, name="")), []).append(place)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)
