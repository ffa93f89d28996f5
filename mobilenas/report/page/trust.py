"""Of rankings, latency tables and exported files what a page shows."""

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from mobilenas.base.errors import BadInput
from mobilenas.base.files import read_json
from mobilenas.base.settings import Record, validated
from mobilenas.cost.latency import LatencyTable, find_table
from mobilenas.report.page.found import FoundRun
from mobilenas.report.page.shapes import Proof, Ranking, Timed, plain
from mobilenas.runs import RunFolder
from mobilenas.runs.beside import BENCH, PROOF
from mobilenas.runs.folder import TABLE
from mobilenas.runtimes.base import files_of
from mobilenas.runtimes.registry import runtime_of
from mobilenas.space import space_from_dict

Part = dict[str, Any]


def read_ranking(found: FoundRun) -> Part:
    """How a supernet, and other predictors, order archs whose stand-alone accuracy is known."""
    ranking = plain(found.opened.result(Ranking))
    kept = ("space", "n", "networks", "truth", "ceiling", "recalibrated", "predictors")
    archs = [
        {key: arch[key] for key in ("arch", "truth", "supernet", "flops")}
        for arch in ranking["archs"]
    ]
    evidence = {"min_evidence": ranking["min_evidence"], "seed": ranking["seed"]}
    return {key: ranking[key] for key in kept} | evidence | {"archs": archs}


def read_check(found: FoundRun) -> Part:
    """Networks that a latency table was not made from: what it predicts, what they took."""
    # Heavy: the first reaches torch. A report without such a run needs neither.
    from mobilenas.latency.check import TIMINGS, compare, predictions
    from mobilenas.latency.measure import TimingLog

    settings = found.opened.settings
    space = space_from_dict(settings["space"])
    table = _read_table(f"{TABLE}{settings['table']}", found.opened)
    with tempfile.TemporaryDirectory() as folder:  # a log that is opened may be mended
        copy = shutil.copy(found.path / TIMINGS, folder)
        timings = TimingLog(Path(copy)).timings()
    archs = [space.parse(text) for text in timings]
    predicted = predictions(space, table, archs)
    measured = np.array([timing.median_ms for timing in timings.values()])
    figures = compare(predicted, measured)
    return {
        "table": table.name,
        "space": space.name,
        "processor": settings["processor"],
        "runtime": f"{settings['runtime']} {settings['runtime_version']}",
        "n": len(archs),
        "networks": [
            {
                "arch": text,
                "predicted": float(guess),
                "measured": timing.median_ms,
                "spread": timing.spread_ms,
                "visits": timing.count,
            }
            for (text, timing), guess in zip(timings.items(), predicted["table"], strict=True)
        ],
        "predictors": {name: row.model_dump() for name, row in figures.items()},
    }


def tables_of(runs: Iterable[FoundRun]) -> list[Part]:
    """The latency tables that searches have costs from, each with what its check says."""
    named: dict[str, FoundRun] = {}
    for found in runs:
        if found.run is None or found.kind == "latency-check":
            continue
        for role in found.run.parents:
            if role.startswith(TABLE):
                named.setdefault(role, found)
    return [_table(role, found) for role, found in named.items()]


def _table(role: str, found: FoundRun) -> Part:
    try:
        table = _read_table(role, found.opened)
    except (BadInput, OSError) as error:
        return {"run": found.name, "table": role.removeprefix(TABLE), "damage": str(error)}
    check = table.check
    return {
        "run": found.name,
        "table": table.name,
        "device": table.device,
        "processor": table.processor,
        "runtime": f"{table.runtime} {table.runtime_version}",
        "dtype": table.dtype,
        "source": table.source,
        "check": None if check is None else check.model_dump(mode="json"),
        "loo_mape": table.calibration.loo_mape,
    }


def _read_table(role: str, run: RunFolder) -> LatencyTable:
    """The table that a run has as this parent; earlier checks had its name alone."""
    place = run.parents.get(role, role.removeprefix(TABLE))
    if place.endswith(".json"):
        place = run.find(role, "--latency")
    return find_table(place, None)


def read_exports(found: FoundRun) -> list[Part]:
    """The exported files in a run folder, each with its proof where that was stored."""
    parts = []
    for path in sorted(found.path.iterdir()):
        runtime = runtime_of(path)
        if runtime is not None:
            files = files_of(path, runtime.suffixes).values()
            size = sum(file.stat().st_size for file in files if file.is_file())
            part: Part = {"run": found.name, "file": path.name, "size_bytes": size}
            try:
                stored = {
                    "proof": _beside(path, PROOF, Proof),
                    "bench": _beside(path, BENCH, Timed),
                }
                parts.append(part | stored)
            except BadInput as error:
                parts.append(part | {"damage": str(error)})
    return parts


def _beside(path: Path, ending: str, shape: type[Record]) -> Part | None:
    file = path.with_name(path.name + ending)
    return plain(validated(shape, read_json(file), file)) if file.exists() else None
