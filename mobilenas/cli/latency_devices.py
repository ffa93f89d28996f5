"""`latency build` and `latency check` on many devices at once."""

import logging
import shlex
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from mobilenas.base.errors import BadInput, DevicesFailed
from mobilenas.cli.options import is_given, print_json

if TYPE_CHECKING:
    from mobilenas.latency.build import BuildSettings
    from mobilenas.latency.farm import FarDevice
    from mobilenas.runs.folder import Kind
    from mobilenas.space import Space

log = logging.getLogger(__name__)
RUNS = Path("runs/latency")
# What the file says of each device.
_OF_A_DEVICE = ("device", "runtime", "dtype", "threads", "batch", "command", "table")


def check_alone(context: typer.Context) -> None:
    """Raise BadInput for options beside --devices that the file says of each device."""
    for name in _OF_A_DEVICE:
        if is_given(context, name):
            option = "TABLE" if name == "table" else f"--{name}"
            raise BadInput(f"{option}: leave it out beside --devices, whose file says it of each")


def build_on_devices(
    file: Path,
    space: "Space",
    *,
    space_name: str,
    budget: float,
    seed: int,
    out: Path | None,
    tables: Path,
    resume: bool,
    as_json: bool,
) -> None:
    """A table for each device of a file, in `tables`; its run folder is in `out`.

    space_name: what `load_space` knows it by. Raises BadInput, and DevicesFailed when the others
    are done.
    """
    from mobilenas.cost.latency import FOLDER, write_table
    from mobilenas.latency.build import build_table, table_name
    from mobilenas.latency.devices import read_devices
    from mobilenas.latency.farm import on_devices
    from mobilenas.runs.folder import check_for_runs, check_free
    from mobilenas.runs.lock import held

    check_for_runs(out or RUNS)
    address, devices = read_devices(file)
    settings = [device.of(space, seed) for device in devices]
    runs = out or RUNS

    def build(its: "BuildSettings", device: "FarDevice") -> dict[str, Any]:
        run = runs / table_name(its)
        table = build_table(its, run, budget=budget, resume=run in there, device=device)
        path = write_table(tables, table)
        networks = len(table.calibration.archs)
        return {"table": str(path), "rows": len(table.rows), "networks": networks}

    made = [runs / table_name(its) for its in settings]
    there = _to_resume(runs, made, "latency", resume)
    with ExitStack() as locks:
        for name in map(table_name, settings):
            if not resume:
                check_free(runs / name)
            locks.enter_context(held(tables / f"{name}.json", "latency build", is_file=True))
            locks.enter_context(held(runs / name, "latency build"))
        built, failed = on_devices(address, devices, settings, build)
    if as_json:
        print_json({"tables": built, "unfinished": failed})
    else:
        for found in built.values():
            print(f"{found['table']}: {found['rows']} rows, fitted to {found['networks']} networks")
        if built and tables == Path(FOLDER):  # where a check of devices looks for them
            options = f"--devices {shlex.quote(str(file))} --space {shlex.quote(space_name)}"
            print(f"next: mobilenas latency check {options}")
    _raise_failed(failed, len(devices), made)


def check_on_devices(
    file: Path,
    space: "Space",
    *,
    n: int,
    seed: int,
    out: Path | None,
    resume: bool,
    as_json: bool,
) -> None:
    """Check the table that each device of a file has of a space.

    Raises BadInput, and DevicesFailed when the others are done.
    """
    from mobilenas.cost.latency import FOLDER, LatencyTable, find_table, write_table
    from mobilenas.latency.build import table_name
    from mobilenas.latency.check import check_table, is_same_device
    from mobilenas.latency.devices import read_devices
    from mobilenas.latency.farm import on_devices
    from mobilenas.report.latency import check_lines, plot_check
    from mobilenas.runs.folder import check_for_runs, check_free
    from mobilenas.runs.lock import held

    check_for_runs(out or RUNS)
    address, devices = read_devices(file)
    tables: dict[str, LatencyTable] = {}
    without: dict[str, str] = {}
    for device in devices:
        try:
            table = find_table(table_name(device.of(space, seed)), None)
            table.column(space)
            tables[device.name] = table
        except BadInput as error:
            without[device.name] = str(error)
    if not tables:
        raise BadInput(next(iter(without.values())))
    devices_with = [device for device in devices if device.name in tables]
    settings = [device.of(space, seed) for device in devices_with]
    runs = {name: (out or RUNS) / f"{table.name}-check" for name, table in tables.items()}
    there = _to_resume(out or RUNS, runs.values(), "latency-check", resume)

    def check(its: "BuildSettings", device: "FarDevice") -> tuple[Any, ...]:
        table = tables[its.device]
        found, predicted, measured = check_table(
            space,
            table,
            device,
            runs[its.device],
            n=n,
            seed=seed,
            command=its.command,
            resume=runs[its.device] in there,
            place=table.name,
        )
        table = table.model_copy(update={"check": found})
        path = write_table(Path(FOLDER), table) if is_same_device(table, device) else None
        return found, predicted, measured, path

    with ExitStack() as locks:
        for name, table in tables.items():
            if not resume:
                check_free(runs[name])
            file_of = Path(FOLDER) / f"{table.name}.json"
            locks.enter_context(held(file_of, "latency check", is_file=True))
            locks.enter_context(held(runs[name], "latency check"))
        checked, failed = on_devices(address, devices_with, settings, check)
        failed = without | failed
        for name, (_, predicted, measured, _) in checked.items():
            plot_check(runs[name] / "check.png", tables[name].name, predicted, measured)
    if as_json:
        checks = {
            name: {"table": path and str(path), "check": found.model_dump(mode="json")}
            for name, (found, _, _, path) in checked.items()
        }
        print_json({"checks": checks, "unfinished": failed})
    else:
        for name, (found, _, _, path) in checked.items():
            print(check_lines(tables[name].name, found, tables[name].control_ms if path else None))
            print(f"stored in {path}" if path else "not stored: another device than the table's")
    _raise_failed(failed, len(devices), runs.values())


def _to_resume(out: Path, runs: Iterable[Path], kind: "Kind", resume: bool) -> set[Path]:
    """The runs that are there, where they are to be resumed: some devices may not have begun.

    Raises BadInput where none of them has.
    """
    from mobilenas.runs.folder import check_some_to_resume, is_run

    if not resume:
        return set()
    runs = list(runs)
    check_some_to_resume(out, runs, kind)
    there = {run for run in runs if is_run(run, kind)}
    for run in runs:
        if run not in there:
            log.info("%s holds no run to resume: starting one", run)
    return there


def _raise_failed(failed: dict[str, str], number: int, runs: Iterable[Path]) -> None:
    from mobilenas.runs.folder import holds_run

    if failed:
        # A device that was never reached has no run yet.
        how = "--resume continues" if any(map(holds_run, runs)) else "nothing was timed"
        reasons = "; ".join(f"{name} ({reason})" for name, reason in failed.items())
        raise DevicesFailed(f"{len(failed)} of {number} devices unfinished, {how}: {reasons}")
