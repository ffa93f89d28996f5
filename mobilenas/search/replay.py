"""A search whose evaluations are on disk: one line an arch, synced after each group of archs.

Resume is replay. A search is a deterministic function of its settings, its seed and what was
measured, so a resumed one starts at the beginning and reads what it knows from the file. There is
no other state, hence none that a kill could tear.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mobilenas.base.errors import BadInput, InfeasibleBudget
from mobilenas.base.files import append_jsonl, read_jsonl
from mobilenas.cost.titles import format_limits
from mobilenas.search.nsga2 import Evaluation, Measured, NSGA2Search
from mobilenas.search.problem import ACCURACY, SCORE
from mobilenas.space import Arch

Measure = Callable[[list[Arch]], Sequence[Measured]]

GROUP = 10  # archs that are measured together: what a kill can lose


def explore(
    search: NSGA2Search,
    path: Path,
    measure: Measure,
    on_progress: Callable[[NSGA2Search, int], None] = lambda search, done: None,
) -> None:
    """Run a search to its end; what `path` holds is not measured again, the rest is added to it.

    measure: accuracy in 0..1, and NASWOT in a search by score, of each of some archs that no group
    before had; their company must not matter. on_progress: called with the number of evaluated
    archs after each group and generation.
    Raises InfeasibleBudget where no arch that was proposed meets the limits, and BadInput for
    evaluations on disk that this search would not have made.
    """
    replay = read_jsonl(path, "generation", "arch", ACCURACY)
    while (asked := search.ask()) is not None:
        start = len(search.evaluations)
        known = replay[start : start + len(asked)]
        made = [
            _replayed(path, start + i, row, search, arch, costs)
            for i, (row, (arch, costs)) in enumerate(zip(known, asked.items(), strict=False))
        ]
        left = list(asked)[len(made) :]
        for group in _even_groups(left):
            measured = zip(group, measure(group), strict=True)
            new = [_evaluation(search, arch, asked[arch], value) for arch, value in measured]
            append_jsonl(path, (evaluation.row() for evaluation in new))
            made += new
            on_progress(search, start + len(made))
        search.tell(made)
        on_progress(search, len(search.evaluations))
    if len(search.evaluations) < len(replay):
        raise BadInput(f"{path} has more lines than this search evaluates archs")
    if not search.evaluations:
        problem = search.problem
        raise InfeasibleBudget(
            f"none of {len(search.proposed)} archs of {problem.cost_model.space.name} meets "
            f"{format_limits(problem.limits)}"
        )


def _even_groups(archs: list[Arch]) -> list[list[Arch]]:
    """Of at most GROUP archs each, in order: archs measured together share work."""
    count = -(-len(archs) // GROUP)
    ends = np.linspace(0, len(archs), count + 1).round().astype(int)
    return [archs[a:b] for a, b in pairwise(ends)]


def _evaluation(
    search: NSGA2Search, arch: Arch, costs: dict[str, float], measured: Measured
) -> Evaluation:
    if not 0 <= measured.accuracy <= 1:
        raise ValueError(f"the accuracy of {arch} is {measured.accuracy}, not in 0..1")
    if (search.problem.quality == SCORE) != (measured.naswot is not None):
        raise ValueError("a search by score, and no other, needs naswot")
    return Evaluation(search.generation, arch, measured.accuracy, costs, measured.naswot)


def _replayed(
    path: Path,
    place: int,
    row: dict[str, Any],
    search: NSGA2Search,
    arch: Arch,
    costs: dict[str, float],
) -> Evaluation:
    """The evaluation on line `place` + 1, which must be of this arch."""
    where = f"{path} line {place + 1}"
    accuracy, naswot = row[ACCURACY], row.get("naswot")
    if not isinstance(accuracy, int | float) or not 0 <= accuracy <= 1:
        raise BadInput(f"{where}: accuracy {accuracy} is no number in 0..1")
    by_score = search.problem.quality == SCORE
    if by_score and not (isinstance(naswot, float) and math.isfinite(naswot)):
        raise BadInput(f"{where}: naswot {naswot} is no number")
    known = Measured(accuracy, naswot if by_score else None)
    evaluation = _evaluation(search, arch, costs, known)
    if evaluation.row() != row:
        raise BadInput(
            f"{where} is {row['arch']}, where this search comes to {evaluation.arch}: the file was "
            "edited, or written by other library versions"
        )
    return evaluation
