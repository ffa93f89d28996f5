"""Run folders of versions before run.json had a kind, read as those of today.

Each kind had a settings file of its own: run.json of three forms, search.json, settings.json,
build.json and check.json. Delete this module when nobody has such folders any more.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mobilenas.base.errors import BadInput
from mobilenas.base.files import read_json

Stored = dict[str, Any]  # kind, settings, parents, facts

# What the checkpoints of before held, of supernets and of networks.
_SUPERNET = {"step", "loss_sum", "loss_passes", "model", "optimizer", "scaler"}
_NETWORK = {"progress", "network", "average", "optimizer", "scaler"}


def read_earlier(path: Path, kinds: tuple[str, ...]) -> Stored | None:
    """What run.json of today would say of the run in a folder; None for no run of before.

    A folder could hold two of them (a latency table and its check): `kinds` says which are meant.
    Raises BadInput for a settings file that is damaged.
    """
    for name, kind, key, convert in _FILES:
        if (path / name).is_file() and (kind is None or kind in kinds):
            stored = read_json(path / name)
            if isinstance(stored, dict) and "kind" not in stored and (not key or key in stored):
                try:
                    return convert(stored)
                except (AttributeError, TypeError):
                    raise BadInput(f"{path / name} does not hold the settings of a run") from None
    return None


def current_checkpoint(state: Any) -> Any:
    """A checkpoint of the two trainings of before, with the keys of today; others as they are."""
    if not isinstance(state, dict) or not (state.keys() >= _SUPERNET or state.keys() >= _NETWORK):
        return state
    if "model" in state:
        progress = {"step": state["step"], "loss_sum": state["loss_sum"]}
        progress["losses"] = state["loss_passes"]
        module, average, task = state["model"], None, {}
    else:
        task = dict(state["progress"])
        progress = {"step": task.pop("step"), "loss_sum": task.pop("loss_sum")}
        progress["losses"] = task.pop("loss_steps")
        module, average = state["network"], state["average"]
    return {
        "module": module,
        "average": average,
        "optimizer": state["optimizer"],
        "scaler": state["scaler"],
        "progress": progress,
        "task": task,
    }


def _training(stored: Stored) -> Stored:
    if "config" not in stored or isinstance(stored["config"], str):
        return _detector(stored)
    return _network(stored) if "arch" in stored else _supernet(stored)


def _supernet(stored: Stored) -> Stored:
    facts = _take(stored, "mobilenas", "data_checksum", "classes")
    # Their images were always held in memory, whatever their number.
    config = {"stream": False} | stored["config"]
    return _run("supernet", stored | {"config": config}, facts)


def _network(stored: Stored) -> Stored:
    facts = _take(stored, "mobilenas", "data_checksum", "mean", "std", "teacher_checksum")
    roles = {"supernet": stored.get("inherit"), "network": stored.get("weights")}
    return _run("train", stored, facts, {role: x for role, x in roles.items() if x})


def _detector(stored: Stored) -> Stored:
    facts = _take(stored, "mobilenas", "classes", "data_checksum", "weights_checksum")
    weights = stored.get("weights")
    return _run("detect", stored, facts, {"network": weights} if weights else {})


def _search(stored: Stored) -> Stored:
    places = stored.pop("places", {})
    tables = places.get("latency_tables", {})
    parents = {f"latency table {name}": place for name, place in tables.items()}
    if "supernet" in places:
        parents["supernet"] = places["supernet"]
    return _run("evolve", stored, {}, parents)


def _ranking(stored: Stored) -> Stored:
    return _run("rank", stored, _take(stored, "archs"))


def _table(stored: Stored) -> Stored:
    return _run("latency", stored, {})


def _check(stored: Stored) -> Stored:
    return _run("latency-check", stored, {})


# File, the kind of run that it was of (None: it tells by its content), a key that tells it from a
# file of other programs, whose folders are no runs, and how it is read.
_FILES: list[tuple[str, str | None, str | None, Callable[[Stored], Stored]]] = [
    ("run.json", None, None, _training),
    ("search.json", "evolve", "limits", _search),
    ("settings.json", "rank", "archs", _ranking),
    ("build.json", "latency", "space", _table),
    ("check.json", "latency-check", "table", _check),
]


def _take(stored: Stored, *names: str) -> Stored:
    return {name: stored.pop(name) for name in names if name in stored}


def _run(kind: str, settings: Stored, facts: Stored, parents: Stored | None = None) -> Stored:
    return {"kind": kind, "settings": settings, "parents": parents or {}, "facts": facts}
