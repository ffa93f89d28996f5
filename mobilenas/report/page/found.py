"""The runs that a report is of: those that the user names, and what these were made from."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mobilenas.base.errors import BadInput
from mobilenas.runs import RunFolder
from mobilenas.runs.folder import KINDS, holds_run, runs_in

# The order in which a job makes them, so that a reader meets them in it.
_ORDER = ("supernet", "rank", "truth", "latency", "latency-check", "evolve", "search", "train")


@dataclass(frozen=True)
class FoundRun:
    """A run folder, and its name in the report: what tells it from the others.

    run: None where run.json cannot be read, for the reason in `damage`.
    """

    path: Path
    name: str
    run: RunFolder | None
    damage: str | None

    @property
    def opened(self) -> RunFolder:
        """The run, of one that is not damaged."""
        assert self.run is not None
        return self.run

    @property
    def kind(self) -> str:
        """Empty where it is not known."""
        return self.run.kind if self.run else ""

    @property
    def title(self) -> str:
        """What it is, in words."""
        return KINDS[self.run.kind][0] if self.run else "a damaged run"


def find_runs(named: Sequence[Path]) -> tuple[list[FoundRun], list[str]]:
    """The runs in these folders and their parents, in the order of the job; and notes on parents
    that are no longer where they were.

    A folder that holds no run but folders with runs, as that of a quickstart, stands for these; a
    sweep brings its searches.
    Raises BadInput for one that holds neither.
    """
    queue = deque(path.absolute() for place in named for path in _runs_in(place))
    found: dict[str, tuple[Path, RunFolder | None, str | None]] = {}
    notes: list[str] = []
    while queue:
        path = queue.popleft()
        if os.path.realpath(path) in found:
            continue
        try:
            run, damage = RunFolder.open(path, *KINDS), None
        except (BadInput, OSError) as error:
            run, damage = None, str(error)
        found[os.path.realpath(path)] = path, run, damage
        if run is not None:
            queue += [*_searches_in(run), *_parents(run, notes)]
    names = _names([path for path, _, _ in found.values()])
    runs = [FoundRun(path, names[path], run, why) for path, run, why in found.values()]
    return sorted(runs, key=_place), notes


def _runs_in(place: Path) -> list[Path]:
    if not place.is_dir():
        raise BadInput(f"{place}: there is no such folder; report takes run folders")
    inside = runs_in(place)
    if not inside:
        raise BadInput(f"{place} holds no run, and no folder in it does")
    return inside


def _searches_in(run: RunFolder) -> list[Path]:
    """The searches of a sweep, each in a folder of its own."""
    if run.kind != "sweep":
        return []
    return sorted(inside for inside in run.path.iterdir() if inside.is_dir() and holds_run(inside))


def _parents(run: RunFolder, notes: list[str]) -> Iterator[Path]:
    """The runs that a run was made from: a parent is a run, or a file or folder within one."""
    for role in run.parents:
        if role == "data" or (role not in run.relative and not run.parents[role].startswith("/")):
            continue  # images, and tables by their names
        try:
            place = run.parent(role, "place")
        except BadInput:
            notes.append(f"the {role} of {run.path} is no longer in {run.parents[role]}")
            continue
        for folder in (place, place.parent):
            if folder.is_dir() and holds_run(folder):
                yield folder.absolute()
                break


def _names(paths: list[Path]) -> dict[Path, str]:
    """The shortest ends of paths that differ: runs of one job by their folders' names."""
    for parts in range(1, 1 + max(len(path.parts) for path in paths)):
        names = {path: "/".join(path.parts[-parts:]) for path in paths}
        if len(set(names.values())) == len(paths):
            break
    return names


def _place(found: FoundRun) -> int:
    return _ORDER.index(found.kind) if found.kind in _ORDER else len(_ORDER)
