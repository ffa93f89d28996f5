"""What this installation can do: `mobilenas doctor`. Each answer says how far it was tried."""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from packaging.requirements import Requirement

from mobilenas import __version__
from mobilenas.base.errors import BadInput, one_line
from mobilenas.base.resources import resource
from mobilenas.cost.latency import FOLDER, list_tables, read_table
from mobilenas.latency.host import processor
from mobilenas.nn.kernels.compiled import library
from mobilenas.runtimes.registry import RUNTIMES, runtime_class

_PACKAGE = "mobilenas"
_LONGEST_TRIAL = 600  # seconds
DATA_ROOT = "MOBILENAS_DATA"


def examine(*, try_out: bool) -> dict[str, Any]:
    """All of it as plain data. try_out: whether runtimes and detection are run, each in a process
    of its own, as a broken package may end it; else only their versions are looked up.
    """
    return {
        "mobilenas": __version__,
        "folder": str(Path(__file__).parents[1]),
        "python": platform.python_version(),
        "system": platform.platform(),
        "torch": torch.__version__,
        "torch_for": f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPUs",
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerators": _accelerators(),
        "kernels": _kernels(),
        "libraries": _libraries(),
        "extras": _extras(),
        "runtimes": {name: _runtime(name, try_out) for name in RUNTIMES},
        "detection": _trial("detection") if try_out else None,
        "latency_tables": {name: _table(path) for name, path in list_tables().items()},
        "folders": {name: str(resource(name)) for name in ("configs", FOLDER)},
        DATA_ROOT: _data_root(),
    }


def _accelerators() -> list[dict[str, Any]]:
    """Each accelerator that torch sees, after a sum on it."""
    kind = torch.accelerator.current_accelerator(check_available=True)
    if kind is None:
        return []
    found = []
    for index in range(torch.accelerator.device_count()):
        device = torch.device(kind.type, index)
        name = torch.cuda.get_device_name(device) if kind.type == "cuda" else kind.type
        try:
            ran = torch.ones(8, device=device).sum().item() == 8
            found.append({"device": str(device), "name": name, "ran": ran})
        except RuntimeError as error:
            found.append({"device": str(device), "name": name, "ran": False, **_failed(error)})
    return found


def _kernels() -> dict[str, Any]:
    """The compiled kernels, which are loaded for it."""
    able = torch.backends.cpu.get_cpu_capability()
    return {"loaded": library() is not None, "processor": able}


def _requirements() -> list[Requirement]:
    """What the installed package needs, its extras included; none where it runs from a folder."""
    try:
        return [Requirement(text) for text in importlib.metadata.requires(_PACKAGE) or []]
    except importlib.metadata.PackageNotFoundError:
        return []


def _libraries() -> dict[str, dict[str, Any]]:
    """What it always needs."""
    plain = (x for x in _requirements() if x.marker is None or x.marker.evaluate({"extra": ""}))
    return {each.name: _package(each) for each in plain}


def _extras() -> dict[str, dict[str, dict[str, Any]]]:
    """The packages of each extra."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for each in _requirements():
        if each.marker is None or each.marker.evaluate({"extra": ""}) or each.name == _PACKAGE:
            continue
        for extra in importlib.metadata.metadata(_PACKAGE).get_all("Provides-Extra") or []:
            if each.marker.evaluate({"extra": extra}):
                found.setdefault(extra, {})[each.name] = _package(each)
    return found


def _package(needed: Requirement) -> dict[str, Any]:
    """Its version, and whether that is one of those that are needed; it is not imported."""
    try:
        version = importlib.metadata.version(needed.name)
    except importlib.metadata.PackageNotFoundError:
        version = None
    fits = version is not None and needed.specifier.contains(version, prereleases=True)
    return {"version": version, "needs": str(needed.specifier), "fits": fits}


def _runtime(name: str, try_out: bool) -> dict[str, Any]:
    """Whether it is there; tried: that a small network came out of it as out of torch."""
    try:
        runtime = runtime_class(name)(1)
    except BadInput as error:
        return {"installed": False, "problem": str(error)}
    except Exception as error:  # whatever a package that is broken raises when it is imported
        return {"installed": True, "ran": False, "problem": one_line(error)}
    facts = {
        "installed": True,
        "version": runtime.version,
        "dtypes": list(runtime.dtypes),
        "stand_in": runtime.stand_in,
    }
    return facts | (_trial(name) if try_out else {"ran": None})


def _trial(part: str) -> dict[str, Any]:
    """The word of a process that tries out a part."""
    command = [sys.executable, "-m", "mobilenas.stages.trial", part]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST_TRIAL)
    except subprocess.TimeoutExpired:
        return {"ran": False, "problem": f"did not end within {_LONGEST_TRIAL} s"}
    if done.returncode != 0:
        return {"ran": False, "problem": f"its process ended with code {done.returncode}"}
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def _table(path: Path) -> dict[str, Any]:
    """What a latency table is of, which is read for it."""
    try:
        table = read_table(path)
    except BadInput as error:
        return {"path": str(path), "problem": str(error)}
    shown = ("device", "runtime", "dtype", "threads", "resolution", "space", "date")
    return {"path": str(path)} | {key: getattr(table, key) for key in shown}


def _data_root() -> dict[str, Any]:
    place = os.environ.get(DATA_ROOT)
    return {"path": place, "is_folder": bool(place) and Path(str(place)).is_dir()}


def _failed(error: Exception) -> dict[str, Any]:
    return {"problem": one_line(error)}
