"""The commands `latency`: tables of a device, made, checked, listed. Heavy imports live inside."""

import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from mobilenas.base.errors import BadInput
from mobilenas.base.files import user_path
from mobilenas.cli.latency_devices import RUNS, build_on_devices, check_alone, check_on_devices
from mobilenas.cli.latency_import import latency_import, latency_transfer
from mobilenas.cli.options import Json, Seed, print_json

latency_app = typer.Typer(
    no_args_is_help=True, help="Latency tables: what a network takes on a device, in ms."
)

_BUILD, _CHECK = "latency build", "latency check"
Command = Annotated[
    str | None,
    typer.Option(
        help="For --runtime command: a shell command that is given {model} (ONNX) or {pte} "
        "(ExecuTorch) and prints milliseconds."
    ),
]
Devices = Annotated[
    Path | None,
    typer.Option(help="YAML file of many devices, timed all at once (docs/latency_farm.md)."),
]


@latency_app.command("build")
def latency_build(
    context: typer.Context,
    space: Annotated[
        str | None, typer.Option(help="Shipped space or YAML file, with overrides.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Your name for the device, for --latency 20ms@DEVICE.")
    ] = None,
    runtime: Annotated[str, typer.Option(help="onnxruntime, executorch or command.")] = (
        "onnxruntime"
    ),
    dtype: Annotated[str, typer.Option(help="fp32 or int8.")] = "fp32",
    threads: Annotated[int, typer.Option(min=1, max=1024, help="Threads of the runtime.")] = 1,
    batch: Annotated[int, typer.Option(min=1, max=4096, help="Images at a time.")] = 1,
    resolution: Annotated[
        int | None,
        typer.Option(min=1, max=1 << 13, help="Side of the images in pixels, else the space's."),
    ] = None,
    command: Command = None,
    devices: Devices = None,
    budget: Annotated[str, typer.Option(help="Time to measure for: 90s, 10m, 2h.")] = "15m",
    seed: Seed = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Run folder; runs/latency/<name of the table> by default. With --devices the "
            "folder of the run folders."
        ),
    ] = None,
    tables: Annotated[Path, typer.Option(help="Folder that the table is written to.")] = Path(
        "latency_tables"
    ),
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep what the run folder has and continue.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure a latency table for a space on this host, or on any device through a command.

    Times every distinct block, stem and head as a graph of its own, then whole networks, and fits
    the rows to them so that their sums predict networks.

    Example: mobilenas latency build --space s2 --device laptop --budget 5m

    Example: mobilenas latency build --space s2 --devices farm.yaml --budget 2h
    """
    from mobilenas.base.units import parse_seconds
    from mobilenas.cost.latency import FOLDER, write_table
    from mobilenas.latency.build import BuildSettings, build_table, table_name
    from mobilenas.runs.lock import held
    from mobilenas.space import load_space

    if space is None:
        raise BadInput("--space is missing: the space whose blocks are measured")
    if device is None and devices is None:
        raise BadInput("--device is missing: what this host is called, or --devices FILE")
    loaded = load_space(space)
    if resolution is not None and resolution != loaded.resolution:
        space += f"{',' if ':' in space else ':'}resolution={resolution}"
        loaded = load_space(space)
    if devices is not None:
        check_alone(context)
        build_on_devices(
            devices,
            loaded,
            space_name=space,
            budget=parse_seconds(budget),
            seed=seed,
            out=out,
            tables=tables,
            resume=resume,
            as_json=as_json,
        )
        return
    assert device is not None
    settings = BuildSettings(
        space=loaded.to_dict(),
        device=device,
        runtime=runtime,
        dtype=dtype,
        threads=threads,
        batch=batch,
        seed=seed,
        command=command,
    )
    name = table_name(settings)
    run = out or RUNS / name
    with held(tables / f"{name}.json", _BUILD, is_file=True), held(run, _BUILD):
        table = build_table(settings, run, budget=parse_seconds(budget), resume=resume)
        path = write_table(tables, table)
    fit = table.calibration
    if as_json:
        print_json({"table": str(path), "rows": len(table.rows), "networks": len(fit.archs)})
        return
    loo = "" if fit.loo_mape is None else f", leave-one-out error {100 * fit.loo_mape:.1f} %"
    print(f"{path}: {len(table.rows)} rows, fitted to {len(fit.archs)} networks{loo}")
    known = shlex.quote(str(name if tables == Path(FOLDER) else path))
    options = f" --space {shlex.quote(space)}" if space != table.space else ""
    options += " --command ..." if command else ""
    print(f"next: mobilenas latency check {known}{options}")
    print(f"      mobilenas evolve --latency 20ms@{known}")


@latency_app.command("check")
def latency_check(
    context: typer.Context,
    table: Annotated[
        str | None,
        typer.Argument(metavar="TABLE", help="Name or file of a table, or a device."),
    ] = None,
    space: Annotated[
        str | None, typer.Option(help="Space to draw networks of, else the table's own.")
    ] = None,
    n: Annotated[int, typer.Option("-n", min=5, max=10_000, help="Networks to time.")] = 60,
    command: Command = None,
    devices: Devices = None,
    seed: Seed = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Run folder; runs/latency/<table>-check by default. With --devices the folder of "
            "the run folders."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep what the run folder has and continue.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Time whole networks that the table was not made from, and say how well it predicts them.

    The figures are stored in the table if they are of its own space and device.

    Example: mobilenas latency check laptop-onnxruntime-fp32-s2

    Example: mobilenas latency check --devices farm.yaml --space s2
    """
    from mobilenas.cost.budget import LatencyLimit
    from mobilenas.cost.latency import FOLDER, find_table, write_table
    from mobilenas.latency.build import GRAPHS
    from mobilenas.latency.check import check_table, is_same_device
    from mobilenas.latency.timer import Host, make_timer
    from mobilenas.report.latency import check_lines, plot_check
    from mobilenas.runs import RunFolder
    from mobilenas.runs.lock import held
    from mobilenas.space import load_space

    if devices is not None:
        check_alone(context)
        if space is None:
            raise BadInput("--devices needs --space, whose tables are to be checked")
        check_on_devices(
            devices, load_space(space), n=n, seed=seed, out=out, resume=resume, as_json=as_json
        )
        return
    if table is None:
        raise BadInput("TABLE is missing: the table to check, or --devices FILE")
    folder = user_path(table).parent if table.endswith(".json") else Path(FOLDER)
    found = find_table(table, load_space(space) if space else None)
    if found.source != "measured":
        raise BadInput(f"table {found.name} is {found.source}: nothing here can time its device")
    drawn_from = load_space(space or found.space)
    found.column(drawn_from)
    timer = make_timer(
        found.runtime, dtype=found.dtype or "fp32", threads=found.threads or 1, command=command
    )
    is_its_own = drawn_from.name == found.space
    name = found.name if is_its_own else f"{found.name}-on-{drawn_from.name}"
    run = out or RUNS / f"{name}-check"
    if resume:  # before anything is said of this host
        RunFolder.to_resume(run, "latency-check")
    host = Host(timer, run / GRAPHS)
    stored = is_same_device(found, host) and is_its_own
    picture = run / "check.png"
    with ExitStack() as locks:
        if stored:
            locks.enter_context(held(folder / f"{found.name}.json", _CHECK, is_file=True))
        locks.enter_context(held(run, _CHECK))
        check, predicted, measured = check_table(
            drawn_from,
            found,
            host,
            run,
            n=n,
            seed=seed,
            command=command,
            resume=resume,
            place=LatencyLimit(table).place(found),
        )
        plot_check(picture, name, predicted, measured)
        path = write_table(folder, found.model_copy(update={"check": check})) if stored else None
    if as_json:
        print_json({"table": path and str(path), "check": check.model_dump(mode="json")})
        return
    print(check_lines(name, check, found.control_ms if stored else None))
    print(f"stored in {path}" if stored else "not stored: another space or device than the table's")
    print(f"picture: {picture}")


@latency_app.command("list")
def latency_list(as_json: Json = False) -> None:
    """List the tables: those that come with mobilenas and those in ./latency_tables.

    Example: mobilenas latency list
    """
    from mobilenas.cost.latency import readable_tables
    from mobilenas.report.latency import tables_text

    tables = readable_tables()
    if as_json:
        drop: Any = {"rows", "calibration"}
        print_json({table.name: table.model_dump(mode="json", exclude=drop) for table in tables})
        return
    print(tables_text(tables))


latency_app.command("import")(latency_import)
latency_app.command("transfer")(latency_transfer)
