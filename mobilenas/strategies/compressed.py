"""What a node of cells or a block may take, as coefficients of a sparse vector."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mobilenas.base.randomness import Stream, generator
from mobilenas.space import Choice
from mobilenas.space.edge_cells import NONE
from mobilenas.strategies.choices import Choices
from mobilenas.strategies.lasso import lasso
from mobilenas.strategies.subsets import Parts

Vector = NDArray[np.float64]

_NOTHING = 1e-30  # stands for a coefficient of 0 where something has to be taken


@dataclass(frozen=True, eq=False)
class Node:
    """A node of cells, or a block.

    places: its choices. taken: how many of them an arch has. members: of each choice (candidates,
    columns), 1 where a candidate has a coefficient: an op of an edge its own, a candidate of a
    block of several paths those of its expansion with each of its paths. matrix: A (rows, columns).
    nothing: of each choice the column of `none`, where it has one.
    """

    places: range
    taken: int
    members: list[NDArray[np.float64]]
    matrix: NDArray[np.float64]
    nothing: tuple[int | None, ...]

    def recovered(self, b: Vector, prices: Vector) -> Vector:
        """The sparse z of b (rows,). Of a choice without any coefficient that of `none` stands for
        something next to nothing; without `none` the one that comes first at a lower price.
        """
        z = lasso(self.matrix, b, prices)
        nearness = np.abs(self.matrix.T @ (b - self.matrix @ z)) / prices
        for members, nothing in zip(self.members, self.nothing, strict=True):
            own = members.any(axis=0)
            if not z[own].any():
                first = np.where(own, nearness, -1).argmax()
                z[first if nothing is None else nothing] = _NOTHING
        return z

    def scores(self, z: Vector) -> list[Vector]:
        """Of each choice, (candidates,): the sizes of their coefficients, added up."""
        return [members @ np.abs(z) for members in self.members]

    def chosen(self, z: Vector) -> dict[int, int]:
        """The places that are taken, with the candidate of each. Candidates of a block that have
        equal scores differ by paths without a coefficient, and the first has the fewest paths.
        """
        scores = self.scores(z)
        kept = np.argsort([-each.max() for each in scores], kind="stable")[: self.taken]
        return {self.places[i]: int(scores[i].argmax()) for i in sorted(kept)}

    def weights(self, b: Tensor, z: Vector) -> dict[int, Tensor]:
        """Of each place that is taken what its candidate is multiplied by: its coefficients of
        z + A (b - A z), with z cut down to what is taken, added up. In the graph of b.
        """
        taken = {
            place: torch.from_numpy(self.members[place - self.places.start][candidate])
            for place, candidate in self.chosen(z).items()
        }
        cut = torch.stack(list(taken.values())).amax(0) * torch.from_numpy(z)
        matrix = torch.from_numpy(self.matrix)
        coefficients = cut + matrix.T @ (b.double() - matrix @ cut)
        return {place: (own @ coefficients).to(b) for place, own in taken.items()}

    def dearness(self, costs: list[list[Vector]], weight: float) -> Vector:
        """(columns,): 1 + weight times each cost over its mean, then all divided by their mean.

        costs: of the candidates of each choice of the space; a coefficient costs what the cheapest
        candidate does that has it, and 0 at least.
        """
        found = np.ones(self.matrix.shape[1])
        for of_places in costs:
            pairs = zip(self.members, of_places[self.places.start : self.places.stop], strict=True)
            each = [np.where(members > 0, own[:, None], np.inf).min(0) for members, own in pairs]
            cost = np.min(each, axis=0)
            cost = cost - min(cost.min(), 0)  # fitted latencies are relative to that of another op
            found += weight * cost / max(float(cost.mean()), _NOTHING)
        return np.asarray(found / found.mean())


def make_nodes(choices: Choices, seed: int) -> list[Node]:
    """The nodes of cells, or each block as one.

    A has as many rows as an edge has ops (Yang et al. 2020), or half as many as a block has
    coefficients. Its entries are drawn from U(0, 1), then its columns brought to length 1: one that
    lies within the hull of others could never be taken.
    """
    if choices.inputs:
        spans = [range(into.start, into.stop) for into in choices.into]
        degrees = [node.taken for node in choices.inputs]
    else:
        spans = [range(place, place + 1) for place in range(len(choices.ops))]
        degrees = [1] * len(spans)
    # Where nodes leave edges out no arch has `none`, not even at a node that keeps all.
    leaves_out = any(node.taken < len(node.candidates) for node in choices.inputs)
    nodes = []
    for number, (places, taken) in enumerate(zip(spans, degrees, strict=True)):
        has = [_coefficients(choices.ops[place], leaves_out) for place in places]
        columns = [
            (place, name)
            for place, each in enumerate(has)
            for name in dict.fromkeys(chain.from_iterable(each))
        ]
        members = [
            np.array([[float(at == place and x in own) for at, x in columns] for own in each])
            for place, each in enumerate(has)
        ]
        rows = len(columns) // len(places) if choices.inputs else (len(columns) + 1) // 2
        matrix = generator(seed, Stream.ARCH_MATRIX, number).random((rows, len(columns)))
        matrix /= np.linalg.norm(matrix, axis=0)
        named = zip(members, places, strict=True)
        nothing = tuple(_column(own, choices.ops[place].candidates) for own, place in named)
        nodes.append(Node(places, taken, members, matrix, nothing))
    return nodes


def _coefficients(choice: Choice, leaves_out: bool) -> list[list[tuple[int | None, int]]]:
    """Of each candidate the names of its coefficients: op and path, or op alone.

    leaves_out: whether an arch leaves edges out, so that `none` has no coefficient.
    """
    parts = Parts.of(choice)
    if parts.paths:
        return [[(op, path) for path in subset or (-1,)] for op, subset in parts.pairs]
    names = enumerate(choice.candidates)
    return [[] if leaves_out and name == NONE else [(index, -1)] for index, name in names]


def _column(members: NDArray[np.float64], candidates: Sequence[str]) -> int | None:
    """That of the coefficient of `none`, if there is one."""
    own = members[candidates.index(NONE)] if NONE in candidates else np.zeros(1)
    return int(own.argmax()) if own.any() else None
