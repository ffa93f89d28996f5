"""Spaces of cells: NAS-Bench-101 as MixPath cuts it, parallel nodes whose outputs are summed.

A network repeats one cell. In it each node that is present takes the cell's input through a 1x1
convolution of its own and applies its op; the sum of the nodes enters a last 1x1 convolution. A
cell is written op by op, `c3.none.mp`: conv3x3, nothing, maxpool3x3.
"""

from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Annotated, Any

import numpy as np
from pydantic import Field, model_validator

from mobilenas.base.errors import BadInput
from mobilenas.base.settings import Record
from mobilenas.space.spec import Channels, Classes, Positive, Resolution

OPS = ("c1", "c3", "mp")
ABSENT = "none"


@dataclass(frozen=True)
class Cell:
    """What each node does: `c1` conv1x1, `c3` conv3x3, `mp` maxpool3x3, `none` absent.

    Absent nodes at the end are left out, so that a cell has one form in spaces of all sizes.
    """

    ops: tuple[str, ...]

    def __post_init__(self) -> None:
        count = len(self.ops)
        while count and self.ops[count - 1] == ABSENT:
            count -= 1
        object.__setattr__(self, "ops", self.ops[:count])

    @property
    def present(self) -> tuple[str, ...]:
        """The ops of the nodes that are present."""
        return tuple(op for op in self.ops if op != ABSENT)

    @property
    def num_paths(self) -> int:
        """Number of nodes that are present: summed outputs, the k of SBN_k."""
        return len(self.present)

    def __str__(self) -> str:
        return ".".join(self.ops)

    @classmethod
    def parse(cls, text: str) -> "Cell":
        """Read a text form; `CellSpace.parse` also checks its length. Raises BadInput."""
        ops = tuple(text.strip().split("."))
        for number, op in enumerate(ops, start=1):
            if op not in (*OPS, ABSENT):
                raise BadInput(
                    f"cell {text!r} node {number}: {op!r} is none of {', '.join(OPS)} and {ABSENT}"
                )
        cell = cls(ops)
        if not cell.ops:
            raise BadInput(f"cell {text!r} has no node: one at least is {', '.join(OPS)}")
        return cell


class CellSpec(Record):
    """The YAML schema of a space of cells.

    stacks x cells cells in a row; a 2x2 max-pool halves the size before every stack but the first,
    whose channels the next one doubles. max_paths: nodes of a cell, 4 at most in NAS-Bench-101.
    """

    name: str
    description: str
    resolution: Resolution = 32
    num_classes: Classes = 10
    in_channels: Positive = 3
    channels: Channels = 128
    stacks: Annotated[int, Field(ge=1, le=10)] = 3
    cells: Annotated[int, Field(ge=1, le=100)] = 3
    max_paths: Annotated[int, Field(ge=1, le=4)] = 4

    @model_validator(mode="after")
    def _large_enough(self) -> "CellSpec":
        smallest = 2 ** (self.stacks - 1)
        if self.resolution < smallest:
            raise ValueError(
                f"resolution {self.resolution} is less than {smallest}: each of {self.stacks} "
                "stacks but the first halves it"
            )
        return self


@dataclass(frozen=True)
class CellShape:
    """One of the repeated cells. size: side of its feature maps; pooled: a max-pool precedes it."""

    in_channels: int
    out_channels: int
    size: int
    pooled: bool


class CellSpace:
    """What may be built: networks of one cell, repeated. shapes: the repetitions, in order."""

    def __init__(self, spec: CellSpec) -> None:
        self.spec = spec
        self.name = spec.name
        self.resolution = spec.resolution
        self.num_classes = spec.num_classes
        self.max_paths = spec.max_paths
        self.shapes = self._resolve()

    @property
    def num_archs(self) -> int:
        """Cells by name: every node is absent or has one of the ops, but one is present."""
        return (len(OPS) + 1) ** self.max_paths - 1

    def distinct(self) -> list[Cell]:
        """The canonical cells: all that differ in more than the order of their nodes."""
        return [
            Cell(ops)
            for count in range(1, self.max_paths + 1)
            for ops in combinations_with_replacement(OPS, count)
        ]

    def sample(self, rng: np.random.Generator) -> Cell:
        """One cell, drawn as MixPath does: number of nodes, then which, then the op of each."""
        count = rng.integers(1, self.max_paths + 1)
        ops = [ABSENT] * self.max_paths
        for node in rng.choice(self.max_paths, count, replace=False):
            ops[node] = OPS[rng.integers(len(OPS))]
        return Cell(tuple(ops))

    def parse(self, text: str) -> Cell:
        """The cell of a text form. Raises BadInput naming the node and the reason."""
        cell = Cell.parse(text)
        self._check(cell)
        return cell

    def canonical(self, cell: Cell) -> Cell:
        """The one name of a network that has several: ops sorted, in the first nodes.

        Raises BadInput for a cell of another space.
        """
        self._check(cell)
        return Cell(tuple(sorted(cell.present)))

    def to_dict(self) -> dict[str, Any]:
        """Plain data from which `any_space_from_dict` rebuilds the space."""
        return self.spec.model_dump(mode="json")

    def _check(self, cell: Cell) -> None:
        if len(cell.ops) > self.max_paths:
            raise BadInput(
                f"cell {cell} has {len(cell.ops)} nodes, space {self.name} has {self.max_paths}"
            )

    def _resolve(self) -> tuple[CellShape, ...]:
        shapes = []
        channels, size = self.spec.channels, self.spec.resolution
        for stack in range(self.spec.stacks):
            out = self.spec.channels * 2**stack
            for position in range(self.spec.cells):
                pooled = stack > 0 and position == 0
                size = size // 2 if pooled else size
                shapes.append(CellShape(channels, out, size, pooled))
                channels = out
        return tuple(shapes)
