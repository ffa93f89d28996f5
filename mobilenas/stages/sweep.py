"""Searches under many budgets through one supernet: `mobilenas sweep`.

run.json         settings: the budgets, and what all searches have in common
BUDGET/          the run folder of each search, as `mobilenas evolve` makes it
measured.jsonl   what was measured of archs: an arch is measured once, whichever search asks first
sweep.json       what was found under each budget
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from os.path import realpath
from pathlib import Path
from typing import Any

from mobilenas.base.errors import BadInput
from mobilenas.base.units import parse_size
from mobilenas.cost.budget import Budget, LatencyLimit
from mobilenas.runs import RunFolder
from mobilenas.runs.folder import check_free, is_run
from mobilenas.search import Result
from mobilenas.search.front import pick_arch
from mobilenas.stages.evolve import Prepared, Search
from mobilenas.stages.measurements import MEASURED, Measurements

_LATENCY = "latency"


def parse_budgets(limits: Mapping[str, Sequence[str]]) -> dict[str, Budget]:
    """All combinations of limits, each with the name of its folder.

    limits: of flops, params and memory what users write (300M), and for each device a list of
    10ms@DEVICE under a key that starts with `latency`. Raises BadInput.
    """
    budgets: dict[str, Budget] = {}
    for values in product(*limits.values()):
        sizes: dict[str, float] = {}
        latencies = []
        for cost, text in zip(limits, values, strict=True):
            if cost.startswith(_LATENCY):
                latencies.append(LatencyLimit.parse(text))
            else:
                sizes[cost] = parse_size(text)
        costs = (cost.partition("@")[0] for cost in limits)
        words = (f"{cost}-{text}" for cost, text in zip(costs, values, strict=True))
        name = re.sub(r"[^\w.-]+", "-", "_".join(words))
        budget = Budget(sizes, tuple(latencies))
        if budget in budgets.values():
            raise BadInput(f"budget {name} is given twice")
        budgets[name] = budget
    return budgets


def run_sweep(
    search: Search, budgets: dict[str, Budget], out: Path, *, resume: bool
) -> dict[str, Any]:
    """Search under each budget, one after the other; what sweep.json says.

    search: all but its budget. Raises BadInput, and InfeasibleBudget before any work if no arch
    meets one of the budgets.
    """
    if resume:
        RunFolder.to_resume(out, "sweep")
    for path in () if resume else (out, *(out / name for name in budgets)):
        check_free(path)
    several: dict[str, Prepared] = {}
    for name, budget in budgets.items():
        first = next(iter(several.values()), None)
        prepared = Prepared.of(
            replace(search, budget=budget),
            out / name,
            by_truth=False,
            resume=resume and is_run(out / name, "evolve"),
            evaluator=first.evaluator if first else None,
        )
        # Threads are those of the first search, also where workers are others on resume.
        several[name] = replace(prepared, threads=first.threads) if first else prepared
    first = next(iter(several.values()))
    run = RunFolder.start_or_resume(
        out,
        "sweep",
        {
            "budgets": list(budgets),
            "objectives": search.objectives,
            "population": search.population,
            "generations": search.generations,
            "seed": search.seed,
            "evaluator": first.evaluator.describe(),
        },
        resume=resume,
        parents={"supernet": realpath(search.supernet)},
        facts={"data": first.evaluator.run.images.data.found.to_dict()},
    )
    results: dict[str, Result] = {}
    with first.workers() as workers:
        measurements = Measurements(workers, first.measured_quality, out / MEASURED)
        for name, prepared in several.items():
            folder = out / name
            started = prepared.start(folder, {}, resume=is_run(folder, "evolve"))
            results[name] = prepared.explore(started, measurements)
    asked = Counter(str(e.arch) for result in results.values() for e in result.evaluations)
    found = {
        "space": first.evaluator.run.space.name,
        "budgets": [_row(name, several[name], result) for name, result in results.items()],
        "evaluations": asked.total(),
        "measured": len(asked),
        **({"left_out": measurements.left_out} if measurements.left_out else {}),
    }
    run.store_result(found)
    return found


def _row(name: str, prepared: Prepared, result: Result) -> dict[str, Any]:
    """What was found under a budget: its best arch."""
    front = [evaluation.row() for evaluation in result.front]
    best = pick_arch(front, "best", prepared.problem.shown_cost)
    row = next(row for row in front if row["arch"] == best)
    return {
        "budget": name,
        "limits": dict(prepared.problem.limits),
        "evaluations": len(result.evaluations),
        "front": len(front),
        "best": {key: value for key, value in row.items() if key not in ("generation", "feasible")},
    }
