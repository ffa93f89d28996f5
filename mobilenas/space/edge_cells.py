"""Spaces of cells whose edges have ops: NAS-Bench-201's, and that of DARTS.

A cell is a graph: a node is the sum of its edges, an edge an op on an earlier node. All cells of a
type are built alike, so an arch is a `Genotype`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field, model_validator

from mobilenas.base.errors import BadInput
from mobilenas.base.settings import Record
from mobilenas.space.choice import Choice
from mobilenas.space.genotype import Genotype
from mobilenas.space.space import Genes
from mobilenas.space.spec import Positive

NONE = "none"
Op = Literal[
    "none",
    "skip_connect",
    "avg_pool_3x3",
    "max_pool_3x3",
    "nor_conv_1x1",
    "nor_conv_3x3",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
]


@dataclass(frozen=True)
class Skeleton:
    """What a network has around the ops of its cells.

    types: of cells. inputs: of a cell, the outputs of as many parts before it. in_degree: edges
    that an arch has into each node; None for all. stem_strides: of the parts of the stem.
    """

    types: tuple[str, ...]
    inputs: int
    in_degree: int | None
    stem_strides: tuple[int, ...]


SKELETONS = {
    "nb201": Skeleton(("",), 1, None, (1,)),
    "darts": Skeleton(("normal ", "reduce "), 2, 2, (1, 1)),
    "darts_imagenet": Skeleton(("normal ", "reduce "), 2, 2, (4, 2)),
}


class EdgeCellSpec(Record):
    """The YAML schema of a space of cells whose edges have ops.

    skeleton: nb201 (three stages, a residual block before the second and the third; a cell has one
    input, its output is its last node) or darts (cells on the two outputs before them, of which the
    ones after a third and two thirds are reduction cells; two edges into each node; its output is
    all nodes), with the stem for small images or that for ImageNet. nodes: of a cell. channels: of
    each node in the first stage, doubled where the size is halved. cells: of a stage in nb201, of
    the network in darts.
    """

    name: str
    description: str
    skeleton: Literal["nb201", "darts", "darts_imagenet"]
    ops: Annotated[tuple[Op, ...], Field(min_length=1)]
    nodes: Positive
    channels: Positive
    cells: Positive
    resolution: Positive = 32
    num_classes: Annotated[int, Field(ge=2)] = 10
    in_channels: Positive = 3

    @model_validator(mode="after")
    def _consistent(self) -> "EdgeCellSpec":
        if len(set(self.ops)) < len(self.ops) or self.ops == (NONE,):
            raise ValueError(f"ops {list(self.ops)} must be distinct, one of them not {NONE}")
        divisor = 4 * math.prod(SKELETONS[self.skeleton].stem_strides)
        if self.resolution % divisor:
            raise ValueError(f"resolution {self.resolution} must be a multiple of {divisor}")
        if self.skeleton != "nb201" and self.cells < 3:
            raise ValueError(f"cells {self.cells} must be 3 or more, two of them reduction cells")
        if self.skeleton == "darts_imagenet" and self.channels % 2:
            raise ValueError(f"channels {self.channels} must be even, the stem starts with half")
        return self


@dataclass(frozen=True)
class Features:
    """Feature maps: their number and side."""

    channels: int
    size: int


@dataclass(frozen=True)
class EdgeCellShape:
    """One cell of a network.

    kind: its type, an index. inputs: what enters it. states: what its inputs are brought to.
    nodes: what each node has; output: the cell.
    """

    kind: int
    inputs: tuple[Features, ...]
    states: Features
    nodes: Features
    output: Features

    def stride(self, start: int) -> int:
        """The stride of an edge from a node, inputs counted."""
        return self.states.size // self.nodes.size if start < len(self.inputs) else 1


class EdgeCellSpace:
    """What may be built: networks of cells of some types, one graph of ops a type.

    edges: (start, end) in the order of genes, of every type; nodes are counted from the inputs on.
    into: of each node its edges among these. choices: the op of each edge of each type, one gene
    each; allowed: indices of the ops that an arch may have. inputs: the edges into each node of
    each type. slots: for each view that a supernet takes its place among choices and inputs
    together: cell by cell those of its type. stem: what the parts of the stem put out; shapes: the
    cells, in order.
    """

    def __init__(self, spec: EdgeCellSpec) -> None:
        self.spec = spec
        self.name = spec.name
        self.resolution = spec.resolution
        self.num_classes = spec.num_classes
        self.skeleton = SKELETONS[spec.skeleton]
        first = self.skeleton.inputs
        self.nodes = range(first, first + spec.nodes)
        self.edges = [(start, end) for end in self.nodes for start in range(end)]
        lasts = list(accumulate(self.nodes))
        self.into = [slice(last - end, last) for end, last in zip(self.nodes, lasts, strict=True)]
        in_archs = self.skeleton.in_degree is None  # and else an edge is left out
        self.allowed = [i for i, op in enumerate(spec.ops) if op != NONE or in_archs]
        types = self.skeleton.types
        self.choices = [
            Choice(f"{kind}edge {start}-{end}", spec.ops)
            for kind in types
            for start, end in self.edges
        ]
        self.inputs = [
            Choice(f"{kind}inputs of node {end}", tuple(map(str, range(end))), self._degree(end))
            for kind in types
            for end in self.nodes
        ]
        self.stem, self.shapes = self._resolve()
        self.slots = [slot for shape in self.shapes for slot in self._slots(shape.kind)]

    @property
    def num_archs(self) -> int:
        degrees = ((end, self._degree(end)) for end in self.nodes)
        nodes = (math.comb(end, degree) * len(self.allowed) ** degree for end, degree in degrees)
        return math.prod(nodes) ** len(self.skeleton.types)

    def sample(self, rng: np.random.Generator) -> Genotype:
        """One genotype, uniform over all."""
        return self.strongest([rng.random(len(choice.candidates)) for choice in self.choices])

    def strongest(
        self, scores: Sequence[ArrayLike], inputs: Sequence[ArrayLike] | None = None
    ) -> Genotype:
        """The genotype of the highest scores, of equal ones the first.

        scores: of each of `choices`, (candidates,), such as probabilities; inputs: of each of
        `inputs`, 1 if None. Each edge takes its best op; an edge is worth the score of that times
        its own, and a node that has fewer edges than there are keeps the best (Liu et al. 2019,
        Xu et al. 2020).
        """
        if inputs is None:
            inputs = [np.ones(len(node.candidates)) for node in self.inputs]
        nodes, genes = iter(inputs), []
        for ops in np.split(np.array(scores, float), len(self.skeleton.types)):
            for end, into in zip(self.nodes, self.into, strict=True):
                of_node = ops[into][:, self.allowed]
                worth = of_node.max(axis=1) * np.asarray(next(nodes))
                kept = np.argsort(-worth, kind="stable")[: self._degree(end)]
                best = np.array(self.allowed)[of_node.argmax(axis=1)]
                row = np.full(end, -1)
                row[kept] = best[kept]
                genes.append(row)
        return self.decode(np.concatenate(genes))

    def parse(self, text: str) -> Genotype:
        """The genotype of a text form. Raises BadInput naming the edge and the reason."""
        genotype = Genotype.parse(text)
        self.encode(genotype)
        return genotype

    def canonical(self, genotype: Genotype) -> Genotype:
        """The genotype itself. Cells that compute the same by other edges, as where some are cut
        off, count as different: they differ in params, and NAS-Bench-201 lists each.

        Raises BadInput for a genotype of another space.
        """
        self.encode(genotype)
        return genotype

    def encode(self, genotype: Genotype) -> Genes:
        """Genes (types * edges,): the index of the op of each edge, -1 where there is none.

        Raises BadInput naming the edge.
        """
        types = self.skeleton.types
        if len(genotype.cells) != len(types):
            raise BadInput(
                f"genotype has {len(genotype.cells)} types of cells, space {self.name} {len(types)}"
            )
        genes: list[int] = []
        for kind, nodes in zip(types, genotype.cells, strict=True):
            if len(nodes) != len(self.nodes):
                raise BadInput(
                    f"{kind}cell has {len(nodes)} nodes, space {self.name} has {len(self.nodes)}"
                )
            for end, node in zip(self.nodes, nodes, strict=True):
                starts = {start for _, start in node}
                known = starts <= set(range(end))
                if not (known and len(starts) == len(node) == self._degree(end)):
                    raise BadInput(
                        f"{kind}node {end} has edges from {[start for _, start in node]}; must be "
                        f"{self._degree(end)} different ones of {list(range(end))}"
                    )
                ops = {start: self._index(f"{kind}edge {start}-{end}", op) for op, start in node}
                genes += [ops.get(start, -1) for start in range(end)]
        return np.array(genes)

    def decode(self, genes: Genes) -> Genotype:
        """The genotype of genes (types * edges,)."""
        cells = []
        for row in np.reshape(genes, (len(self.skeleton.types), len(self.edges))):
            nodes: dict[int, list[tuple[str, int]]] = {end: [] for end in self.nodes}
            for (start, end), gene in zip(self.edges, row, strict=True):
                if gene >= 0:
                    nodes[end].append((self.spec.ops[gene], start))
            cells.append(tuple(map(tuple, nodes.values())))
        return Genotype(tuple(cells))

    def to_dict(self) -> dict[str, Any]:
        """Plain data from which `listed_space_from_dict` rebuilds the space."""
        return self.spec.model_dump(mode="json")

    def _degree(self, end: int) -> int:
        """How many edges an arch has into a node."""
        return self.skeleton.in_degree or end

    def _index(self, edge: str, op: str) -> int:
        allowed = [self.spec.ops[index] for index in self.allowed]
        if op not in allowed:
            raise BadInput(f"{edge}: {op!r} is none of {', '.join(allowed)}")
        return self.spec.ops.index(op)

    def _slots(self, kind: int) -> list[int]:
        """Of a type of cells its choices, then its inputs, which stand behind all choices."""
        edges, nodes = len(self.edges), len(self.nodes)
        first = len(self.choices) + kind * nodes
        return [*range(kind * edges, (kind + 1) * edges), *range(first, first + nodes)]

    def _resolve(self) -> tuple[list[Features], list[EdgeCellShape]]:
        of_nb201 = self.spec.skeleton == "nb201"
        channels, size = self.spec.channels, self.spec.resolution
        stem = []
        for stride in self.skeleton.stem_strides:
            size //= stride
            stem.append(Features(channels * (3 if self.spec.skeleton == "darts" else 1), size))
        outputs, shapes = list(stem), []
        count = self.spec.cells * (3 if of_nb201 else 1)
        for number in range(count):
            halves = number in (count // 3, 2 * count // 3)
            entered = size
            if halves:
                channels, size = 2 * channels, size // 2
            nodes = Features(channels, size)
            # In nb201 it is the residual block before the cell that halves.
            states = Features(channels, size if of_nb201 else entered)
            output = nodes if of_nb201 else Features(channels * len(self.nodes), size)
            kind = int(halves and not of_nb201)
            shapes.append(EdgeCellShape(kind, tuple(outputs), states, nodes, output))
            outputs = [*outputs[1:], output]
        return stem, shapes
