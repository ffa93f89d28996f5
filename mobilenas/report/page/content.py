"""What is in a report, as plain data: `mobilenas report --json` prints it, the page draws it."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from mobilenas import __version__
from mobilenas.base.errors import BadInput, one_line
from mobilenas.base.settings import validated
from mobilenas.cost.titles import is_cost, latency_cost
from mobilenas.report.page.drawing import draw
from mobilenas.report.page.found import FoundRun, find_runs
from mobilenas.report.page.searches import read_front, read_strategy
from mobilenas.report.page.shapes import FoundData, plain
from mobilenas.report.page.summary import headline, sentences
from mobilenas.report.page.trainings import (
    best_recipe,
    read_detector,
    read_training,
    read_truth,
)
from mobilenas.report.page.trust import read_check, read_exports, read_ranking, tables_of
from mobilenas.report.page.worth import worth
from mobilenas.space import listed_space_from_dict

Part = dict[str, Any]

# The sections that are made of run folders: which kinds have a part there, and how it is read.
_SECTIONS: dict[str, tuple[tuple[str, ...], Callable[[FoundRun], Part]]] = {
    "searches": (("evolve",), read_front),
    "strategies": (("search",), read_strategy),
    "trainings": (("supernet", "search", "train"), read_training),
    "truths": (("truth",), read_truth),
    "rankings": (("rank",), read_ranking),
    "checks": (("latency-check",), read_check),
    "detections": (("detect",), read_detector),
}


def report_content(named: Sequence[Path]) -> dict[str, Any]:
    """Everything that a page says of the runs in these folders and of their parents.

    A part that cannot be read has `damage`, the reason, in place of its figures. Raises BadInput
    for a folder without a run.
    """
    runs, notes = find_runs(named)
    content: dict[str, Any] = {
        section: [_part(found, read) for found in runs if found.kind in kinds]
        for section, (kinds, read) in _SECTIONS.items()
    }
    content["tables"] = tables_of(runs)
    content["exports"] = [part for found in runs if found.run for part in read_exports(found)]
    content["runs"] = [_provenance(found) for found in runs]
    content["archs"] = _archs(runs, content)
    return {
        "mobilenas": __version__,
        "title": _title(runs),
        **sentences(content),
        "headline": headline(content),
        "notes": notes + _notes(content),
        **content,
        "worth": worth(content),
    }


def _part(found: FoundRun, read: Callable[[FoundRun], Part]) -> Part:
    """What a reader makes of a run, or why it cannot: files may be torn, edited or missing, and
    the other parts of a report are worth having all the same.
    """
    try:
        return {"run": found.name, **read(found)}
    except (BadInput, OSError) as error:
        return {"run": found.name, "damage": one_line(error)}
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        return {"run": found.name, "damage": f"its files are not as expected: {one_line(error)!r}"}


def _sound(parts: Iterable[Part]) -> list[Part]:
    """Those that could be read."""
    return [part for part in parts if "damage" not in part]


def _title(runs: Sequence[FoundRun]) -> str:
    names = [found.run.settings.get("space") for found in runs if found.run]
    spaces = dict.fromkeys(x["name"] for x in names if isinstance(x, dict) and "name" in x)
    if len(spaces) > 1:
        spaces = dict.fromkeys(name.split(":")[0] for name in spaces)
    return ", ".join(spaces) or ", ".join(found.name for found in runs)


def _notes(content: Part) -> list[str]:
    """What a reader has to know of the whole: spaces that differ, parts that are missing."""
    notes = []
    fronts = content["searches"] + content["strategies"] + content["trainings"]
    spaces = dict.fromkeys(part["space"] for part in _sound(fronts))
    if len(spaces) > 1:
        notes.append(
            f"the runs are of {len(spaces)} spaces ({', '.join(spaces)}): costs compare, accuracies"
            " only where the images are the same"
        )
    supernets = {part["supernet"] for part in _sound(content["searches"])}
    if len(supernets) > 1:
        notes.append(
            f"the searches are over {len(supernets)} supernets: accuracies in one do not compare "
            "with those in another"
        )
    sources = dict.fromkeys(run["data"]["source"] for run in content["runs"] if run.get("data"))
    kinds = {run["kind"] for run in content["runs"] if run.get("data")} - {"detect"}
    if len(sources) > 1 and kinds:
        notes.append(f"the runs are of several data ({', '.join(sources)})")
    notes += [
        f"{arch['arch']} was trained by {arch['trained']['recipes']} recipes: the one of the best "
        "mean validation accuracy is shown"
        for arch in content["archs"]
        if "recipes" in arch.get("trained", {})
    ]
    notes += [f"{run['run']}: {run['damage']}" for run in content["runs"] if "damage" in run]
    for section in _SECTIONS:
        for part in _sound(content[section]):
            if not part.get("finished", True):
                notes.append(f"{part['run']} is not finished: what it has so far is shown")
    return list(dict.fromkeys(notes))


def _provenance(found: FoundRun) -> Part:
    """Where the figures of a run come from."""
    about: Part = {"run": found.name, "title": found.title, "kind": found.kind}
    about["path"] = str(found.path)
    if found.run is None:
        return about | {"damage": found.damage}
    run = found.run
    try:
        timing: Part = {"seconds": run.seconds, "hardware": run.hardware}
    except BadInput as error:
        timing = {"damage": one_line(error)}
    try:
        data = plain(validated(FoundData, run.facts.get("data"), found.path / "run.json"))
    except BadInput:  # of a detector, or of a run before data were described
        data = None
    return about | {
        **timing,
        "parents": {role: place for role, place in run.parents.items() if role != "data"},
        "provenance": run.provenance,
        "seed": run.settings.get("seed"),
        "data": data,
        "data_checksum": run.facts.get("data_checksum"),
        "settings": run.settings,
    }


def _archs(runs: Sequence[FoundRun], content: Part) -> list[Part]:
    """Every arch of a front, and those that were trained: drawings, costs, accuracies; several
    trainings of one are one, as `best_recipe` has them. One at two resolutions is two, which differ
    in costs and accuracies.
    """
    spaces = {found.name: found.run.settings.get("space") for found in runs if found.run}
    archs: dict[tuple[Any, ...], Part] = {}
    results: dict[tuple[Any, ...], dict[str, list[Part]]] = {}
    for part in _sound(content["searches"] + content["strategies"] + content["trainings"]):
        space = spaces[part["run"]]
        rows = part.get("front", [])
        if part.get("kind") == "train":
            rows = [{"arch": part["arch"], **_costs(part.get("result", {}))}]
        for row in rows:
            named = {key: part[key] for key in ("space", "resolution")} | {"arch": row["arch"]}
            key = tuple(named.values())
            arch = archs.setdefault(key, {**named, "in": []})
            arch["in"].append(part["run"])
            arch.setdefault("costs", {}).update({k: x for k, x in row.items() if is_cost(k)})
            if "drawing" not in arch:
                arch["drawing"] = _drawing(space, row["arch"])
            if "result" in part:
                same = results.setdefault(key, {}).setdefault(part["recipe"], [])
                same.append(part["result"])
    for key, trained in results.items():
        archs[key]["trained"] = best_recipe(trained)
    return list(archs.values())


def _costs(result: Part) -> Part:
    """The costs in the result of a training, by the names that fronts have for them."""
    costs = {key: result[key] for key in ("flops", "params", "memory") if key in result}
    return costs | {latency_cost(name): ms for name, ms in result.get("latency_ms", {}).items()}


def _drawing(space: Part | None, arch: str) -> Part | None:
    """None for an arch that is none of the space, as a part that was edited may have."""
    try:
        return draw(listed_space_from_dict(space or {}), arch)
    except BadInput:
        return None
