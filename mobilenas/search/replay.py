"""A search whose evaluations are on disk: one line an arch, synced after each group of archs.

Resume is replay. A search is a deterministic function of its settings, its seed and what was
measured, so a resumed one starts at the beginning and reads what it knows from the file. There is
no other state, hence none that a kill could tear.
"""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from mobilenas.base.errors import BadInput, InfeasibleBudget, WorkFailed
from mobilenas.base.files import append_jsonl, read_jsonl
from mobilenas.base.settings import Record, is_number
from mobilenas.cost.titles import format_limits
from mobilenas.search.ask_tell import Measured, Search
from mobilenas.search.problem import ACCURACY, QUALITIES
from mobilenas.space import Arch
from mobilenas.workers import even_groups

Measure = Callable[[list[Arch]], Sequence[Measured | None]]

GROUP = 10  # archs that are measured together: what a kill can lose


class _Row(Record, extra="allow"):
    """A line of the file; what more it has is compared with what the search says."""

    generation: int
    arch: str


def explore(
    search: Search,
    path: Path,
    measure: Measure,
    on_progress: Callable[[Search], None] = lambda search: None,
    *,
    left_out: Collection[str] = (),
    at_once: int | None = GROUP,
) -> None:
    """Run a search to its end; what `path` holds is not measured again, the rest is added to it.

    measure: what the search's quality needs, of each of some archs that no group before had; their
    company must not matter; None for one that cannot be measured, which the search leaves out.
    left_out: the text forms of those that are known to be. at_once: archs of a group, None for a
    generation. on_progress: called after the evaluations of a generation that are on disk, and
    after each group that is measured.
    Raises InfeasibleBudget where no arch that was proposed meets the limits, WorkFailed where none
    of the first can be measured, and BadInput for evaluations on disk that this search would not
    have made.
    """
    replay = [row.model_dump() for row in read_jsonl(path, _Row)]
    # What is on disk was measured, though a later search may have left the network out since.
    evaluated = {row["arch"] for row in replay}
    while (archs := search.ask()) is not None:
        asked = len(archs)
        for arch in archs:
            if str(arch) in left_out and str(arch) not in evaluated:
                search.leave_out(arch)
        archs = [arch for arch in archs if arch not in search.left_out]
        start = len(search.evaluations)
        known = replay[start : start + len(archs)]
        for line, (arch, row) in enumerate(zip(archs, known, strict=False), start + 1):
            _replay(search, arch, row, f"{path} line {line}")
        on_progress(search)
        left = archs[len(known) :]
        for group in even_groups(left, at_once or max(1, len(left)), 1):
            measured = dict(zip(group, measure(group), strict=True))
            for arch in [arch for arch, values in measured.items() if values is None]:
                search.leave_out(arch)
            evaluations = search.tell({arch: x for arch, x in measured.items() if x is not None})
            append_jsonl(path, (evaluation.row() for evaluation in evaluations))
            on_progress(search)
        if asked and not search.evaluations:
            raise WorkFailed(f"none of the first {asked} archs within the limits could be measured")
    if len(search.evaluations) < len(replay):
        raise BadInput(f"{path} has more lines than this search evaluates archs")
    if not search.evaluations:
        problem = search.problem
        raise InfeasibleBudget(
            f"none of {len(search.proposed)} archs of {problem.cost_model.space.name} meets "
            f"{format_limits(problem.limits)}"
        )


def _replay(search: Search, arch: Arch, row: dict[str, Any], where: str) -> None:
    """Tell a search what a row says, which must be the evaluation of this arch."""
    values: dict[str, Any] = {name: row.get(name) for name in QUALITIES[search.problem.quality]}
    for name, value in values.items():
        if not is_number(value):
            raise BadInput(f"{where}: {name} {value} is no number")
    if not 0 <= values[ACCURACY] <= 1:
        raise BadInput(f"{where}: accuracy {values[ACCURACY]} is not in 0..1")
    (evaluation,) = search.tell({arch: Measured(**values)})
    if evaluation.row() != row:
        raise BadInput(
            f"{where} is {row['arch']}, where this search comes to {arch}: the file was edited, or "
            "written by another version of mobilenas or of its libraries"
        )
