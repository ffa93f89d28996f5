"""A run folder in mlflow: its settings, figures, curves and files, from the folder alone."""

import json
import logging
import math
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mobilenas import __version__
from mobilenas.base.errors import BadInput, NotTracked, one_line
from mobilenas.base.files import read_json, read_jsonl
from mobilenas.runs.folder import KINDS, RunFolder

EXPERIMENT = "mobilenas"
_LONGEST = 500  # characters of a setting; what is longer is in run.json
_AT_ONCE = 500  # points of curves
# What is not written: checkpoints, TensorBoard's files, and the network of the last epoch.
_LEFT_OUT = re.compile(r"\.(pt|pth)$")
_LEFT_OUT_FOLDERS = {"tensorboard", "last"}

log = logging.getLogger(__name__)


def check_tracker(uri: str) -> None:
    """Raise BadInput unless mlflow is installed and answers at an address: a server, or a folder as
    `file:///...`.
    """
    # mlflow takes any other text for a folder here, and makes it.
    if not re.match(r"\w+:/*[^/]|databricks$", uri.strip()):
        raise BadInput(f"--track {uri!r}: must be http://HOST:PORT or file:///DIR")
    try:
        _client(uri).search_experiments(max_results=1)
    except ImportError:
        raise BadInput(
            f"--track {uri}: mlflow is not installed: pip install '.[track]' in the checkout"
        ) from None
    except Exception as error:  # mlflow raises its own, and those of whatever it talks through
        raise BadInput(f"--track {uri}: {one_line(error)}") from None


def track(path: Path, uri: str) -> str:
    """Write a run folder to mlflow as a new run, whose id is returned.

    Settings become parameters; numbers of the result become metrics, and rows of the log or of a
    list in the result curves; parents and hardware become tags. Raises NotTracked.
    """
    run = RunFolder.open(path, *KINDS)
    try:
        client = _client(uri)
        known = client.get_experiment_by_name(EXPERIMENT)
        experiment = known.experiment_id if known else client.create_experiment(EXPERIMENT)
        tags = {"kind": run.kind, "mobilenas": __version__, "folder": str(path.absolute())}
        tags |= {f"parent.{role}": place for role, place in run.parents.items()}
        tags |= {f"timing.{key}": value for key, value in _leaves(_timing(path))}
        name = f"{run.kind} {path.name}"
        started = client.create_run(experiment, run_name=name, tags=_texts(tags)).info.run_id
        try:
            _write(client, started, run)
        except BaseException:
            client.set_terminated(started, "FAILED")
            raise
        client.set_terminated(started)
    except Exception as error:
        raise NotTracked(f"{path} is done, but not in {uri}: {one_line(error)}") from error
    return str(started)


def _client(uri: str) -> Any:
    # Figures of its use would be sent, and a server that is not there asked for minutes.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    if uri.startswith("file:") or "://" not in uri:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _write(client: Any, run_id: str, run: RunFolder) -> None:
    from mlflow.entities import Metric, Param

    settings = _texts(dict(_leaves(run.settings)))
    parameters = [Param(key, value) for key, value in settings.items() if len(value) <= _LONGEST]
    for first in range(0, len(parameters), 100):
        client.log_batch(run_id, params=parameters[first : first + 100])
    now = int(1000 * time.time())
    points = [Metric(key, value, now, step) for key, value, step in _points(run)]
    for first in range(0, len(points), _AT_ONCE):
        client.log_batch(run_id, metrics=points[first : first + _AT_ONCE])
    for file in _files(run.path):
        folder = file.parent.relative_to(run.path).as_posix()
        client.log_artifact(run_id, str(file), None if folder == "." else folder)


def _points(run: RunFolder) -> Iterator[tuple[str, float, int]]:
    """Name, value and step of every figure of a run."""
    yield "seconds", run.seconds, 0
    if run.is_finished:
        for key, value in run.result().items():
            rows = value if isinstance(value, list) else [value]
            for step, row in enumerate(rows):
                for name, number in _leaves({key: row}):
                    yield from _point(name, number, step)
    for number, row in enumerate(read_jsonl(run.path / "log.jsonl")):
        step = row.pop("step", number)
        for name, value in _leaves(row):
            yield from _point(f"log.{name}", value, step)


def _point(name: str, value: object, step: object) -> Iterator[tuple[str, float, int]]:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        yield re.sub(r"[^\w\-. :/]", "_", name), float(value), int(step)  # type: ignore[call-overload]


def _leaves(data: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Values of nested mappings, by their keys joined with dots."""
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    names = {re.sub(r"[^\w\-. :/]", "_", key): value for key, value in values.items()}
    return {k: v if isinstance(v, str) else json.dumps(v) for k, v in names.items()}


def _timing(path: Path) -> dict[str, Any]:
    file = path / "timing.json"
    return read_json(file) if file.exists() else {}


def _files(folder: Path) -> Iterator[Path]:
    """The plain files of a run; runs inside of it are runs of their own."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if path.name not in _LEFT_OUT_FOLDERS and not (path / "run.json").exists():
                yield from _files(path)
        elif not _LEFT_OUT.search(path.name):
            yield path
