"""A finished search: its front, and which arch of it a user means."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from mobilenas.base.errors import BadInput
from mobilenas.base.files import read_json
from mobilenas.base.settings import Number, Record, validated
from mobilenas.search.problem import QUALITIES

PICKS = ("best", "knee", "cheapest")


class _Row(Record, extra="allow"):
    """An arch of a front; what more it has are costs, and what was measured of it."""

    arch: str
    accuracy: Number
    feasible: bool = True
    __pydantic_extra__: dict[str, Number]


class _Places(Record, extra="ignore"):
    supernet: str


class _Evaluator(Record, extra="ignore"):
    weights: int


class _Settings(Record, extra="ignore"):
    objectives: tuple[str, ...]
    limits: Annotated[dict[str, Number], Field(default_factory=dict)]
    places: _Places
    evaluator: _Evaluator


class _Stored(Record, extra="ignore"):
    """Of front.json what others read."""

    front: Annotated[tuple[_Row, ...], Field(min_length=1)]
    settings: _Settings


class _LearntRow(Record, extra="allow"):
    """The arch of a search by gradient; what more it has are costs."""

    arch: str
    __pydantic_extra__: dict[str, Number]


class _LearntSettings(Record, extra="ignore"):
    limits: dict[str, Number]


class Learnt(Record, extra="ignore"):
    """Of the front.json of a search by gradient what others read. standing: by data set of a
    benchmark, where it was compared with one.
    """

    front: Annotated[tuple[_LearntRow, ...], Field(min_length=1, max_length=1)]
    settings: _LearntSettings
    passes: Number | None = None
    standing: Annotated[dict[str, dict[str, Any]], Field(default_factory=dict)]


@dataclass(frozen=True)
class FoundSearch:
    """What a search folder says.

    front: rows of arch, what was measured of it, and costs. cost: the first of the costs among the
    objectives, else among the limits. supernet: the run folder of the supernet, None of a search by
    gradient, which has its own. weights: the fingerprint of its weights then.
    """

    front: list[dict[str, Any]]
    cost: str
    supernet: Path | None
    weights: int | None

    def pick(self, which: str) -> str:
        """The text form of the arch that `which`, one of PICKS, stands for. Raises BadInput."""
        return pick_arch(self.front, which, self.cost)


def read_search(run: Path) -> FoundSearch:
    """The finished search in a run folder. Raises BadInput where there is none."""
    path = run / "front.json"
    if not path.exists():
        raise BadInput(
            f"{run} holds no finished search; `mobilenas evolve` and `search` make one, `sweep` "
            "one in a folder for each budget"
        )
    stored = read_json(path)
    if isinstance(stored, dict) and "probabilities" in stored:
        learnt = validated(Learnt, stored, path)
        cost = next(iter(learnt.settings.limits), "flops")
        return FoundSearch([row.model_dump() for row in learnt.front], cost, None, None)
    found = validated(_Stored, stored, path)
    settings, front = found.settings, [row.model_dump() for row in found.front]
    costs = (*settings.objectives, *settings.limits, "flops")
    cost = next(name for name in costs if name not in QUALITIES)
    for number, row in enumerate(front):
        if cost not in row:
            raise BadInput(f"{path}: front.{number}: lacks {cost}")
        if row.keys() & QUALITIES.keys() != front[0].keys() & QUALITIES.keys():
            raise BadInput(f"{path}: front.{number}: other figures than the first arch has")
    return FoundSearch(front, cost, Path(settings.places.supernet), settings.evaluator.weights)


def pick_arch(front: list[dict[str, Any]], pick: str, cost: str = "flops") -> str:
    """The text form of an arch of a front: the best by what was searched (accuracy, score or
    prediction), the cheapest, or the knee.

    The knee is farthest above the straight line between the other two, both axes scaled to 0..1.
    """
    if pick not in PICKS:
        raise BadInput(f"--pick {pick}: choose one of {', '.join(PICKS)}")
    if len(front) == 1:
        return str(front[0]["arch"])
    quality = _quality(front)
    cheapest = min(front, key=lambda row: (row[cost], -row[quality]))
    best = max(front, key=lambda row: (row[quality], -row[cost]))
    width = best[cost] - cheapest[cost] or 1
    height = best[quality] - cheapest[quality] or 1

    def above_line(row: dict[str, Any]) -> float:
        gain = (row[quality] - cheapest[quality]) / height
        return float(gain - (row[cost] - cheapest[cost]) / width)

    rows = dict(zip(PICKS, (best, max(front, key=above_line), cheapest), strict=True))
    return str(rows[pick]["arch"])


def spread_archs(front: list[dict[str, Any]], n: int, cost: str = "flops") -> list[str]:
    """The text forms of n archs of a front that say most of it, in order of cost; all for fewer.

    The two ends first, then again and again the arch that is farthest from all that are taken,
    where cost and what was searched reach from 0 to 1. For n = 1 the best.
    """
    if len(front) == 1:
        return [str(front[0]["arch"])]
    quality = _quality(front)
    points = np.array([[row[cost], row[quality]] for row in front], dtype=float)
    points = (points - points.min(axis=0)) / np.maximum(np.ptp(points, axis=0), 1e-300)
    by_name = {str(row["arch"]): number for number, row in enumerate(front)}
    taken = [by_name[pick_arch(front, "best", cost)]]
    if n > 1:
        taken.append(by_name[pick_arch(front, "cheapest", cost)])
    while len(set(taken)) < min(n, len(by_name)):
        distances = np.linalg.norm(points[:, None] - points[taken], axis=2).min(axis=1)
        distances[taken] = -1  # of equal points each is taken once
        taken.append(int(distances.argmax()))
    rows = sorted(set(taken), key=lambda row: (front[row][cost], front[row][quality]))
    return [str(front[row]["arch"]) for row in rows]


def _quality(front: list[dict[str, Any]]) -> str:
    """What a search maximised, by what its rows have."""
    return next(name for name in reversed(QUALITIES) if name in front[0])
