"""Cells whose edges have ops: the supernet of a space, and the plain network of one genotype."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial, reduce
from itertools import accumulate
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobilenas.base.errors import BadInput
from mobilenas.nn.blocks import init_weights
from mobilenas.nn.edge_ops import Zero, build_enter, build_head, build_op, build_stem
from mobilenas.nn.fused_edges import can_fuse, mix_together
from mobilenas.nn.merged import MergedEdge
from mobilenas.nn.pool import global_average
from mobilenas.nn.views import View, Views, indices, mix
from mobilenas.space import EdgeCellSpace, Genotype
from mobilenas.space.edge_cells import EdgeCellShape


class MixedEdge(nn.ModuleList):
    """All ops that an edge may have."""

    def forward(self, x: Tensor, view: View) -> Tensor:
        part = self.taken(x)
        return self.joined(mix(view, lambda indices: [self[index](part) for index in indices]), x)

    def plain(self, index: int) -> nn.Module:
        """The op of an index."""
        return self[index]

    def taken(self, x: Tensor) -> Tensor:
        """The channels that the ops take."""
        return x

    def joined(self, y: Tensor, x: Tensor) -> Tensor:
        """The output of the edge from that of its ops."""
        return y


class PartialEdge(MixedEdge):
    """A mixed edge on the first of `parts` parts of the channels, the others pass by; behind it
    the channels are shuffled (PC-DARTS, Xu et al. 2020).
    """

    def __init__(self, ops: Sequence[nn.Module], parts: int, stride: int) -> None:
        super().__init__(ops)
        self.parts, self.stride = parts, stride

    def taken(self, x: Tensor) -> Tensor:
        return x[:, : x.shape[1] // self.parts]

    def joined(self, y: Tensor, x: Tensor) -> Tensor:
        others = x[:, x.shape[1] // self.parts :]
        if self.stride > 1:
            others = F.max_pool2d(others, self.stride)
        return F.channel_shuffle(torch.cat([y, others], dim=1), self.parts)


class _Cell(nn.Module):
    """What a cell has beside its edges: what brings its inputs to one shape, and its output."""

    def __init__(self, space: EdgeCellSpace, shape: EdgeCellShape, affine: bool) -> None:
        super().__init__()
        residual = space.spec.skeleton == "nb201"
        self.enter = nn.ModuleList(
            build_enter(shape, before, affine, residual) for before in shape.inputs
        )
        self.num_outputs = shape.output.channels // shape.nodes.channels

    def entered(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The first states of the cell."""
        return [enter(x) for enter, x in zip(self.enter, inputs, strict=True)]

    def output(self, states: list[Tensor]) -> Tensor:
        """The last node, or all nodes."""
        return states[-1] if self.num_outputs == 1 else torch.cat(states[-self.num_outputs :], 1)


class ChoiceCell(_Cell):
    """All ops of all edges of one cell. build: an edge of so many channels and a stride."""

    def __init__(
        self,
        space: EdgeCellSpace,
        shape: EdgeCellShape,
        build: Callable[[int, int], nn.Module],
        fused: bool,
    ) -> None:
        super().__init__(space, shape, affine=False)
        self.edges = nn.ModuleList(
            build(shape.nodes.channels, shape.stride(start)) for start, _ in space.edges
        )
        places = range(len(space.edges))
        self.into = [places[into] for into in space.into]
        self.leaving = [
            [place for place in places if space.edges[place][0] == node]
            for node in range(space.nodes[-1])
        ]
        self.fused = fused

    def forward(self, inputs: Sequence[Tensor], views: Views) -> Tensor:
        """views: of the op of each edge, then of the inputs of each node."""
        states = self.entered(inputs)
        ops, of_nodes = views[: len(self.edges)], views[len(self.edges) :]
        together = self.fused and can_fuse(self.edges[0], ops, of_nodes)
        outputs: dict[int, Tensor] = {}  # of edges, where all that leave a node are run at once
        for into, view in zip(self.into, of_nodes, strict=True):
            if together:
                outputs |= self._leaving(states, ops)
            states.append(mix(view, partial(self._entering, into, states, ops, outputs)))
        return self.output(states)

    def _leaving(self, states: list[Tensor], ops: Views) -> dict[int, Tensor]:
        """The outputs of the edges that leave the last node so far."""
        x, places = states[-1], self.leaving[len(states) - 1]
        edges: list[Any] = [self.edges[place] for place in places]
        mixed = mix_together(edges[0].taken(x), edges, [ops[place] for place in places])
        outputs = (edge.joined(y, x) for edge, y in zip(edges, mixed, strict=True))
        return dict(zip(places, outputs, strict=True))

    def _entering(
        self,
        into: range,
        states: list[Tensor],
        ops: Views,
        outputs: dict[int, Tensor],
        starts: Sequence[int],
    ) -> list[Tensor]:
        """The outputs of the edges into a node that come from some nodes."""
        return [
            outputs[into[start]]
            if into[start] in outputs
            else self.edges[into[start]](states[start], ops[into[start]])
            for start in starts
        ]


class PlainCell(_Cell):
    """The edges of one genotype. nodes: of each node its ops, by the node that they take."""

    def __init__(
        self, space: EdgeCellSpace, shape: EdgeCellShape, genotype: Genotype, affine: bool
    ) -> None:
        super().__init__(space, shape, affine)
        build = partial(build_op, affine=affine, norm_pools=_norms_pools(space, affine))
        self.nodes = nn.ModuleList(
            nn.ModuleDict(
                {
                    str(start): build(op, shape.nodes.channels, shape.stride(start))
                    for op, start in node
                }
            )
            for node in genotype.cells[shape.kind]
        )

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        states = self.entered(inputs)
        for node in self.nodes:
            edges = [op(states[int(start)]) for start, op in node.items()]  # type: ignore[operator]
            states.append(reduce(torch.add, edges) if edges else states[0])  # nothing takes it
        return self.output(states)

    def used(self) -> set[int]:
        """The nodes that the output hangs on, inputs counted."""
        first, last = len(self.enter), len(self.enter) + len(self.nodes)
        used = set(range(last - self.num_outputs, last))
        for number in reversed(range(first, last)):
            node = self.nodes[number - first]
            assert isinstance(node, nn.ModuleDict)
            if number in used:
                used |= {int(start) for start, op in node.items() if not isinstance(op, Zero)}
        return used

    def drop_unused_(self) -> None:
        """Take away what the output does not hang on: all edges into a node that is not used, and
        those that put out zeros where others enter their node.
        """
        used = self.used()
        for number, node in enumerate(self.nodes, len(self.enter)):
            assert isinstance(node, nn.ModuleDict)
            for start, op in list(node.items()):
                if number not in used or (isinstance(op, Zero) and len(node) > 1):
                    del node[start]

    def load_from(self, cell: ChoiceCell, genes: list[int]) -> None:
        """Copy the weights of all that it has from a cell of a supernet. genes: (edges,)."""
        self.enter.load_state_dict(cell.enter.state_dict())
        for node, into in zip(self.nodes, cell.into, strict=True):
            assert isinstance(node, nn.ModuleDict)
            for start, op in node.items():
                place = into[int(start)]
                ops = cell.edges[place]
                assert isinstance(ops, MixedEdge | MergedEdge)
                op.load_state_dict(ops.plain(genes[place]).state_dict())


class _EdgeCells(nn.Module):
    """Stem, cells and head of networks and supernets."""

    def __init__(
        self, space: EdgeCellSpace, cells: Sequence[_Cell], generator: torch.Generator | None
    ) -> None:
        super().__init__()
        self.space = space
        self.stem = build_stem(space)
        self.cells = nn.ModuleList(cells)
        self.head = build_head(space)
        self.dropout: nn.Module = nn.Identity()
        self.classifier = nn.Linear(space.shapes[-1].output.channels, space.num_classes)
        init_weights(self, generator)

    def _logits(self, x: Tensor, run: Callable[[Any, list[Tensor]], Tensor]) -> Tensor:
        """run: the output of a cell for the outputs before it, as many as a cell takes."""
        outputs = list(accumulate(self.stem, lambda x, part: part(x), initial=x))[1:]
        for cell in self.cells:
            outputs = [*outputs[1:], run(cell, outputs)]
        return self.classifier(self.dropout(global_average(self.head(outputs[-1]))))


class EdgeCellNetwork(_EdgeCells):
    """`network(x)`: logits (n, classes) of images (n, channels, h, w), of one genotype.

    affine: whether the batch norms of ops have weights and biases, as in stand-alone training.
    Those of a supernet have none (see `EdgeCellSupernet`). drop_rate: of the dropout before the
    classifier.
    Raises BadInput for a genotype of another space.
    """

    def __init__(
        self,
        space: EdgeCellSpace,
        genotype: Genotype,
        *,
        affine: bool = True,
        drop_rate: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        space.encode(genotype)
        cells = [PlainCell(space, shape, genotype, affine) for shape in space.shapes]
        super().__init__(space, cells, generator)
        self.arch = genotype
        self.num_classes, self.in_chans = space.num_classes, space.spec.in_channels
        self.num_features = space.shapes[-1].output.channels
        self.dropout = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        return self._logits(x, lambda cell, inputs: cell(inputs))

    @property
    def is_constant(self) -> bool:
        """Whether the logits do not hang on the image, as where all ops are `none`."""
        cells = [cell for cell in self.cells if isinstance(cell, PlainCell)]
        return any(cell.used().isdisjoint(range(len(cell.enter))) for cell in cells)


class EdgeCellSupernet(_EdgeCells):
    """`supernet(x, views)`: logits (n, classes) of images (n, channels, h, w).

    views: one for each of `space.slots`; of an op an index or weights of some, of the inputs of a
    node weights of its edges, by the node that they come from. Or a genotype. Only what these name
    is executed: after backward all other weights have grad None.

    The batch norms of ops have neither weight nor bias, so that the weight of a view is all that
    scales an op; in DARTS's cells pools have such a batch norm too (Liu et al. 2019).
    parts: the ops take only the first of so many parts of the channels (see `PartialEdge`).
    merged: whether the convolutions of an edge are one, by themselves (flat) or multiplied by the
    sum of their weights (two_level; see `MergedEdge`); not with parts.
    fused: whether a mixture of all edges of a cell is computed in few operations where it can be
    (see `fused_edges`), rather than op by op.
    Raises BadInput where the channels cannot be divided so.
    """

    def __init__(
        self,
        space: EdgeCellSpace,
        *,
        parts: int = 1,
        merged: Literal["flat", "two_level"] | None = None,
        fused: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        if space.spec.channels % parts or 1 < parts > space.spec.channels // 2:
            raise BadInput(
                f"parts {parts}: must divide the {space.spec.channels} channels of space "
                f"{space.name} and leave 2 of them or more"
            )
        ops, norm_pools = space.spec.ops, _norms_pools(space, affine=False)

        def build(channels: int, stride: int) -> nn.Module:
            if merged:
                return MergedEdge(ops, channels, stride, norm_pools, merged == "two_level")
            own = [build_op(op, channels // parts, stride, False, norm_pools) for op in ops]
            return MixedEdge(own) if parts == 1 else PartialEdge(own, parts, stride)

        fused = fused and not merged
        cells = [ChoiceCell(space, shape, build, fused) for shape in space.shapes]
        super().__init__(space, cells, generator)
        self.parts, self.merged = parts, merged

    def forward(self, x: Tensor, views: Genotype | Views) -> Tensor:
        if isinstance(views, Genotype):
            views = genotype_views(self.space, views)
        count = len(self.space.edges) + len(self.space.nodes)
        left = iter([views[i : i + count] for i in range(0, len(views), count)])
        return self._logits(x, lambda cell, inputs: cell(inputs, next(left)))

    def network(self, genotype: Genotype) -> EdgeCellNetwork:
        """The plain network of a genotype with copies of the weights: it computes
        `self(x, genotype)`. Raises BadInput where the ops take a part of the channels only, or are
        merged and run once where a network runs them twice.
        """
        if self.parts > 1:
            raise BadInput(f"parts {self.parts}: a network has ops on all channels")
        if self.merged and "sep_conv" in str(genotype):
            raise BadInput("merged: a sep_conv runs once on an edge, twice in a network")
        network = EdgeCellNetwork(self.space, genotype, affine=False).to(self.classifier.weight)
        for part in ("stem", "head", "classifier"):
            getattr(network, part).load_state_dict(getattr(self, part).state_dict())
        genes = self.space.encode(genotype).reshape(-1, len(self.space.edges))
        for shape, own, cell in zip(self.space.shapes, self.cells, network.cells, strict=True):
            assert isinstance(own, ChoiceCell) and isinstance(cell, PlainCell)
            cell.load_from(own, genes[shape.kind].tolist())
        return network.train(self.training)


def genotype_views(space: EdgeCellSpace, genotype: Genotype) -> list[View]:
    """The views of a genotype, one for each of `space.slots`. Raises BadInput."""
    genes = space.encode(genotype)
    inputs: list[View] = []
    for row in genes.reshape(-1, len(space.edges)).tolist():
        for into in space.into:
            starts = [start for start, gene in enumerate(row[into]) if gene >= 0]
            inputs.append(starts[0] if len(starts) == 1 else _all_of(starts))
    # Of an edge that is not there some op is named, which no node takes.
    return place_views(space, indices(genes.clip(0)), inputs)


def place_views(
    space: EdgeCellSpace, ops: Sequence[View], inputs: Sequence[View] | None = None
) -> list[View]:
    """The views of all `space.slots` from one for each of `space.choices` and one for each of
    `space.inputs`; of these every edge with weight 1 if None.
    """
    if inputs is None:
        inputs = [_all_of(range(len(node.candidates))) for node in space.inputs]
    views = [*ops, *inputs]
    return [views[slot] for slot in space.slots]


def _all_of(starts: Iterable[int]) -> View:
    return dict.fromkeys(starts, torch.ones(()))


def _norms_pools(space: EdgeCellSpace, affine: bool) -> bool:
    """Whether pools have batch norms: in DARTS's cells, while they are searched."""
    return space.spec.skeleton != "nb201" and not affine
