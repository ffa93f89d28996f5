"""Of searches what a page shows: fronts, all that was evaluated, and how a strategy decided."""

import csv
from collections.abc import Mapping
from typing import Any

from mobilenas.base.files import read_jsonl
from mobilenas.cost.titles import is_cost
from mobilenas.report.page.found import FoundRun
from mobilenas.report.page.shapes import Asked, Evaluated, Learnt, Logged, plain, plain_rows
from mobilenas.report.text import standing_lines, trained_accuracy
from mobilenas.runs import RunFolder
from mobilenas.search.front import PICKS, read_search
from mobilenas.search.problem import ACCURACY, QUALITIES
from mobilenas.space import EdgeCellSpace, Space, listed_space_from_dict

Part = dict[str, Any]

_DRAWN = 2000  # evaluated archs that a figure has at most: more are one cloud


def read_front(found: FoundRun) -> Part:
    """A search over a supernet, finished or not: its front, and the archs that it evaluated."""
    run = found.opened
    asked = run.read(Asked)
    evaluated = _evaluated(run)
    part: Part = {
        "space": asked.space.name,
        "resolution": asked.space.resolution,
        "limits": asked.limits,
        "seed": asked.seed,
        "supernet": run.parents.get("supernet"),
        "images": run.settings["evaluator"].get("validation_images"),
        "evaluations": len(evaluated),
        "generations": max((row["generation"] for row in evaluated), default=0),
        "evaluated": _thinned(evaluated),
        "finished": run.is_finished,
    }
    if not run.is_finished:
        return part
    result, search = run.result(), read_search(run.path)
    front = sorted(search.front, key=lambda row: row[search.cost])
    return part | {
        "front": front,
        "quality": next(name for name in reversed(QUALITIES) if name in front[0]),
        "cost": search.cost,
        "costs": sorted(
            (name for name in front[0] if is_cost(name) and all(name in row for row in front)),
            key=lambda name: name != search.cost,
        ),
        "picks": {which: search.pick(which) for which in PICKS},
        "feasible_share": result.get("feasible_share"),
        "trained": trained_accuracy(result),
    }


def read_strategy(found: FoundRun) -> Part:
    """A search by gradient: the arch that it derived, and entropy, skips and expected costs."""
    run = found.opened
    asked = run.read(Asked)
    log = plain_rows(read_jsonl(run.path / "log.jsonl", Logged))
    rows = [row for row in log if "entropy" in row and "passes" in row]
    expected = [key for key in (rows[0] if rows else {}) if key.startswith("expected_")]
    part: Part = {
        "space": asked.space.name,
        "resolution": asked.space.resolution,
        "strategy": asked.strategy,
        "limits": asked.limits,
        "seed": asked.seed,
        "finished": run.is_finished,
        "curves": {
            key: [[row["passes"], row[key]] for row in rows if row.get(key) is not None]
            for key in ("entropy", "skip", *expected)
        },
    }
    if not run.is_finished:
        return part
    result = plain(run.result(Learnt))
    (row,) = result["front"]
    return part | {
        "front": [row],
        "costs": [key for key in row if is_cost(key)],
        "passes": result["passes"],
        "standing": result["standing"],
        "standing_lines": standing_lines(result["standing"]),
        "probabilities": _probabilities(run.settings["space"], result["probabilities"]),
    }


def _evaluated(run: RunFolder) -> list[Part]:
    """All evaluated archs, in order; those of a finished search with their scores."""
    history = run.path / "history.csv"
    if not (run.is_finished and history.is_file()):
        return plain_rows(read_jsonl(run.path / "evaluations.jsonl", Evaluated))
    with history.open(newline="", encoding="utf-8") as file:
        return [_typed(row) for row in csv.DictReader(file)]


def _typed(row: Mapping[str, str]) -> Part:
    typed: Part = {"generation": int(row["generation"]), "arch": row["arch"]}
    numbers = {key for key in row if is_cost(key) or key in QUALITIES or key == ACCURACY}
    return typed | {key: float(row[key]) for key in row if key in numbers and row[key]}


def _thinned(rows: list[Part]) -> list[Part]:
    """Every n-th row, so that a figure has no more than it can show."""
    return rows[:: -(-len(rows) // _DRAWN) or 1]


def _probabilities(space: dict[str, Any], arrays: list[list[float]]) -> list[Part]:
    """The probability of each candidate of each choice, where the strategy has one a candidate."""
    built = listed_space_from_dict(space)
    if isinstance(built, Space):
        choices = [(block.name, list(map(str, block.candidates))) for block in built.blocks]
    elif isinstance(built, EdgeCellSpace):
        choices = [(choice.name, list(choice.candidates)) for choice in built.choices]
    else:
        choices = []
    return [
        {"choice": name, "candidates": candidates, "values": values}
        for (name, candidates), values in zip(choices, arrays, strict=False)
        if len(values) == len(candidates)
    ]
