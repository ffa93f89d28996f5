"""The run folder, one form for all commands that work long.

run.json      kind, settings (what the user chose), parents (the runs, files and images it was made
              from), the same relative to the folder, facts (what was found when it started:
              classes, checksums), and provenance (command line, versions)
timing.json   seconds of work so far, hardware
result.json   what came out, written last (evolve: front.json, rank: rank.json,
              sweep: sweep.json)

Everything else in a folder belongs to the command. run.json is written once, when all that it says
has been checked, and never changed: a run that is resumed has the settings that it started with.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, field_validator

from mobilenas import __version__
from mobilenas.base.errors import BadInput
from mobilenas.base.files import read_json, write_json
from mobilenas.base.settings import Record, validated
from mobilenas.runs.earlier import read_earlier
from mobilenas.runs.places import absolute, has_paths, is_there, relative_to, seen_from
from mobilenas.runs.provenance import provenance
from mobilenas.space import with_defaults

Kind = (
    Literal["supernet", "truth", "rank", "evolve", "sweep", "search"]
    | Literal["train", "detect", "latency", "latency-check"]
)
Settings = TypeVar("Settings", bound=Record)

# What a run of each kind is, and the command that makes it.
KINDS: dict[Kind, tuple[str, str]] = {
    "supernet": ("the training of a supernet", "supernet-train"),
    "truth": ("the trainings of a ground truth", "truth"),
    "rank": ("the ranking of a supernet", "rank"),
    "evolve": ("a search", "evolve"),
    "sweep": ("searches under several budgets", "sweep"),
    "search": ("a search by gradient", "search"),
    "train": ("the training of a network", "train"),
    "detect": ("the training of a detector", "detect train"),
    "latency": ("the timings of a latency table", "latency build"),
    "latency-check": ("the timings of a latency table's check", "latency check"),
}
TABLE = "latency table "  # of the role of such a parent, before its name
_RUN, _TIMING = "run.json", "timing.json"
_RESULTS: dict[Kind, str] = {
    "rank": "rank.json",
    "evolve": "front.json",
    "sweep": "sweep.json",
    "search": "front.json",
}
_OF_HOST = ("runtime_version", "processor")  # settings of timings, which nobody gives
_LARGE = 60  # characters of a value from which on messages leave it out


class _Stored(Record, extra="ignore"):
    """run.json, which also has the version that wrote it."""

    kind: Kind
    settings: dict[str, Any]
    parents: dict[str, Any]
    relative: Annotated[dict[str, Any], Field(default_factory=dict)]  # runs of before have none
    facts: dict[str, Any]
    provenance: Annotated[dict[str, str], Field(default_factory=dict)]  # nor this

    @field_validator("parents", "relative")
    @classmethod
    def _paths(cls, places: dict[str, Any]) -> dict[str, Any]:
        for role, place in places.items():
            if not isinstance(place, str):
                raise ValueError(f"{role}: must be a path")
        return places


class _Timing(Record, extra="allow"):
    """timing.json, which also has what the time was measured on."""

    seconds: Annotated[float, Field(ge=0)]


@dataclass(frozen=True)
class RunFolder:
    """A run folder by what its run.json says. settings, parents and facts are plain data.

    parents: role -> absolute path of a run or file, or the name of a latency table; of the role
    `data` what names the images. relative: those that are places, as seen from the folder. Neither
    is ever compared, as folders move, nor is provenance, which `runs.provenance` has.
    """

    path: Path
    kind: Kind
    settings: dict[str, Any]
    parents: dict[str, str] = field(default_factory=dict)
    relative: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, str] = field(default_factory=dict)

    @classmethod
    def create(
        cls,
        path: Path,
        kind: Kind,
        settings: Record | Mapping[str, Any],
        *,
        parents: Mapping[str, Path | str] | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> "RunFolder":
        """Start a run: writes run.json. Raises BadInput as `check_free` does."""
        check_free(path)
        data = settings.model_dump(mode="json") if isinstance(settings, Record) else dict(settings)
        places = {role: str(place) for role, place in (parents or {}).items()}
        stored = {
            "kind": kind,
            "mobilenas": __version__,
            "settings": data,
            "parents": places,
            "relative": {
                role: relative_to(path, place)
                for role, place in places.items()
                if has_paths(place) and absolute(place) == place
            },
            "facts": dict(facts or {}),
            "provenance": provenance(),
        }
        write_json(path / _RUN, stored)
        return cls.open(path, kind)

    @classmethod
    def open(cls, path: Path, *kinds: Kind) -> "RunFolder":
        """The run in a folder, of one of these kinds.

        Raises BadInput naming what is missing, damaged or of another kind.
        """
        needed = " or ".join(f"`mobilenas {KINDS[kind][1]}`" for kind in kinds)
        stored = read_earlier(path, kinds)
        if stored is None and not (path / _RUN).is_file():
            raise BadInput(f"{path} holds no run; {needed} makes one")
        if stored is None:
            stored = read_json(path / _RUN)
        run = validated(_Stored, stored, path / _RUN)
        if run.kind not in kinds:
            raise BadInput(f"{path} holds {KINDS[run.kind][0]}; a run of {needed} is needed")
        settings = run.settings
        if isinstance(settings.get("space"), dict):
            settings = settings | {"space": with_defaults(settings["space"], path / _RUN)}
        return cls(path, run.kind, settings, run.parents, run.relative, run.facts, run.provenance)

    @classmethod
    def to_resume(cls, path: Path, kind: Kind) -> "RunFolder":
        """The run in a folder, to go on with. Raises BadInput as `open` does, and where there is
        none: a folder that is mistyped must not start a second run.
        """
        check_some_to_resume(path, [path], kind)
        return cls.open(path, kind)

    @classmethod
    def start_or_resume(
        cls,
        path: Path,
        kind: Kind,
        settings: Mapping[str, Any],
        *,
        resume: bool,
        parents: Mapping[str, Path | str] | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> "RunFolder":
        """For commands that are given all their settings again: the run that is there, which must
        have them, if `resume`; else a new one. Raises BadInput.
        """
        if resume:
            run = cls.to_resume(path, kind)
            run.check_same(settings)
            return run
        return cls.create(path, kind, settings, parents=parents, facts=facts)

    def read(self, shape: type[Settings]) -> Settings:
        """The settings with their types. Raises BadInput naming the file and the key."""
        return validated(shape, self.settings, self.path / _RUN, "settings")

    def as_read(self, settings: Record) -> "RunFolder":
        """The same run with its settings as they were read: keys that were added since it was
        started have their defaults, so it can be compared with what is given today.
        """
        return replace(self, settings=settings.model_dump(mode="json"))

    def fact(self, name: str, shape: Any = Any) -> Any:
        """A fact by its name, of this shape. Raises BadInput where run.json lacks it."""
        if name not in self.facts:
            raise BadInput(f"{self.path / _RUN} lacks the fact {name!r}")
        return validated(shape, self.facts[name], f"{self.path / _RUN}: facts.{name}", "the fact")

    def find(self, role: str, option: str) -> str:
        """Where a parent is now: in the place that it has as seen from the folder, or in its old
        one.

        option: by which the user can say it. Raises BadInput where it is in neither, or run.json
        lacks it.
        """
        if role not in self.parents:
            raise BadInput(f"{self.path / _RUN} does not say which {role} it was made from")
        known = self.parents[role]
        near = [seen_from(self.path, self.relative[role])] if role in self.relative else []
        for place in (*near, known):
            if is_there(place):
                return place
        are, their = ("are", "their") if role == "data" else ("is", "its")
        raise BadInput(
            f"the {role} of {self.path} {are} no longer in {known}: give {their} {option}"
        )

    def parent(self, role: str, option: str) -> Path:
        """The same, of a parent that is one path."""
        return Path(self.find(role, option))

    def at(self, **places: Path | str | None) -> "RunFolder":
        """The same run, with the places that the user gives for parents that have moved."""
        given = {role: absolute(str(place)) for role, place in places.items() if place is not None}
        kept = {role: place for role, place in self.relative.items() if role not in given}
        return replace(self, parents=self.parents | given, relative=kept)

    def check_unchanged(self, given: Mapping[str, object]) -> None:
        """Raise BadInput when a setting that is given again (not None) is another one now."""
        given = {name: value for name, value in given.items() if value is not None}
        self.check_same(given, "leave it out")

    def check_same(self, settings: Mapping[str, object], advice: str = "give the same") -> None:
        """Raise BadInput when one of these settings is another one than that of the run. advice:
        what to do with it to resume.
        """
        for name, value in settings.items():
            there, here = self.settings.get(name), _plain(value)
            if there != here:
                how = f"{advice} to resume, or"
                if name in _OF_HOST:
                    how = "timings of two do not mix;"
                raise BadInput(
                    f"{self.path} was started with another {_difference(name, there, here)}: "
                    f"{how} choose another --out"
                )

    @property
    def seconds(self) -> float:
        """Seconds of work so far; 0 before the first were stored."""
        return self._timing.seconds

    @property
    def hardware(self) -> dict[str, Any]:
        """What the time was measured on, as `store_timing` was told; empty before the first."""
        return dict(self._timing.model_extra or {})

    @property
    def _timing(self) -> _Timing:
        path = self.path / _TIMING
        return validated(_Timing, read_json(path), path) if path.exists() else _Timing(seconds=0)

    def store_timing(self, seconds: float, about: Mapping[str, Any]) -> None:
        """Write timing.json. about: what the time was measured on."""
        write_json(self.path / _TIMING, {"seconds": seconds, **about})

    @property
    def is_finished(self) -> bool:
        """Whether the result is there."""
        return self._result.is_file()

    def check_finished(self) -> None:
        """Raise BadInput unless the result is there."""
        if not self.is_finished:
            raise BadInput(
                f"{self.path} is not finished: `mobilenas {KINDS[self.kind][1]} --resume --out "
                f"{self.path}` does the rest"
            )

    def result(self, shape: Any = dict[str, Any]) -> Any:
        """The result, of this shape. Raises BadInput where there is none, or one of another."""
        self.check_finished()
        return validated(shape, read_json(self._result), self._result)

    def store_result(self, result: Mapping[str, Any]) -> None:
        """Write the result: the run is finished."""
        write_json(self._result, dict(result))

    @property
    def _result(self) -> Path:
        return self.path / _RESULTS.get(self.kind, "result.json")


def check_free(path: Path) -> None:
    """Raise BadInput when a folder already holds a run."""
    if (path / _RUN).exists() or read_earlier(path, tuple(KINDS)) is not None:
        raise BadInput(
            f"{path} already holds a run: --resume continues it, or choose another --out"
        )


def check_some_to_resume(path: Path, runs: Iterable[Path], kind: Kind) -> None:
    """Raise BadInput unless one of these runs is there. path: what the user gave as --out."""
    if not any(is_run(run, kind) for run in runs):
        raise BadInput(
            f"{path} holds no run to resume; `mobilenas {KINDS[kind][1]}` without --resume starts "
            "one"
        )


def check_for_runs(path: Path) -> None:
    """Raise BadInput where a folder that runs are to be made in is a run itself."""
    if holds_run(path):
        raise BadInput(f"{path} is a run itself, and no folder for runs: choose another --out")


def is_run(path: Path, kind: Kind) -> bool:
    """Whether a folder holds a run, of this kind or one that `RunFolder.open` then refuses."""
    return (path / _RUN).exists() or read_earlier(path, (kind,)) is not None


def holds_run(path: Path) -> bool:
    """Whether a folder holds a run of any kind, a damaged one too."""
    try:
        return any(is_run(path, kind) for kind in KINDS)
    except BadInput:
        return True


def runs_in(path: Path) -> list[Path]:
    """The folder itself where it holds a run, else the folders in it that do."""
    if holds_run(path):
        return [path]
    return sorted(inside for inside in path.iterdir() if inside.is_dir() and holds_run(inside))


def newest_finished(kinds: tuple[Kind, ...], *folders: Path) -> RunFolder:
    """Of the runs in these folders that are finished the newest. Raises BadInput for none."""
    runs = [RunFolder.open(x, *kinds) for x in folders if any(is_run(x, kind) for kind in kinds)]
    finished = [run for run in runs if run.is_finished]
    if not finished:
        commands = " and ".join(f"`mobilenas {KINDS[kind][1]}`" for kind in kinds)
        raise BadInput(
            f"no finished run in {' or '.join(map(str, folders))}: {commands} make one; --run "
            "names another folder"
        )
    return max(finished, key=lambda run: run._result.stat().st_mtime)


def _plain(value: object) -> Any:
    """As JSON has it, which knows no tuples."""
    return json.loads(json.dumps(value, default=lambda x: x.model_dump(mode="json")))


def _difference(name: str, there: Any, here: Any) -> str:
    """The name of a setting that differs, of a nested one that of its first such key; and how."""
    if isinstance(there, dict) and isinstance(here, dict):
        key = next(k for k in there | here if there.get(k, ...) != here.get(k, ...))
        return _difference(f"{name}.{key}", there.get(key), here.get(key))
    both = f"{there}, not {here}"
    return f"{name} ({both})" if len(both) <= _LARGE else name
