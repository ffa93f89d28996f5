"""latency import and latency transfer: tables from published ones, tables for further devices."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mobilenas.base.errors import BadInput
from mobilenas.cli.options import Json, Seed, print_json

TABLES = Path("latency_tables")
Tables = Annotated[Path, typer.Option(help="Folder that the tables are written to.")]


def latency_import(
    data_root: Annotated[
        Path | None,
        typer.Option(envvar="MOBILENAS_DATA", help="Folder that holds latency/."),
    ] = None,
    tables: Tables = TABLES,
    as_json: Json = False,
) -> None:
    """Write published latency tables as tables that a search can use, after checking them.

    ProxylessNAS and Once-for-All tables of phones; Pixel 3, Raspberry Pi 4, Eyeriss and FPGA for
    the FBNet space. Nothing is written unless every table agrees with its published networks.

    Example: mobilenas latency import --data-root data
    """
    from mobilenas.cost.latency import write_table
    from mobilenas.latency.imports import import_tables
    from mobilenas.report.text import table

    if data_root is None:
        raise BadInput("name the folder that holds latency/ with --data-root or MOBILENAS_DATA")
    imported = import_tables(data_root)
    rows = [
        {
            "table": item.table.name,
            "device": item.table.device,
            "resolution": item.table.resolution,
            "rows": len(item.table.rows),
            "covers": item.covers,
            "missing": {name: list(keys) for name, keys in item.missing.items() if keys},
            "agrees_with": [asdict(agreement) for agreement in item.agreements],
            "file": str(write_table(tables, item.table)),
        }
        for item in imported
    ]
    if as_json:
        print_json({"tables": rows})
        return
    for row, item in zip(rows, imported, strict=True):
        row["covers"] = ", ".join(item.covers) or "no shipped space"
        row["missing"] = ", ".join(
            f"{name} {len(keys)}" for name, keys in item.missing.items() if keys
        )
        row["agrees_with"] = ", ".join(
            f"{agreement.networks} published (largest error {agreement.largest_error_ms:.1g} ms)"
            for agreement in item.agreements
        )
    print(
        table(
            rows,
            {
                "table": "table",
                "device": "device",
                "resolution": "px",
                "rows": "rows",
                "covers": "covers",
                "missing": "rows lacking for",
                "agrees_with": "networks that agree",
            },
        )
    )
    print(f"{len(rows)} tables in {tables}; next: mobilenas latency list")


def latency_transfer(
    table: Annotated[str, typer.Option(help="Table to start from: name, device or JSON file.")],
    space: Annotated[str, typer.Option(help="Shipped space or YAML file, with overrides.")],
    timings: Annotated[
        Path, typer.Option(help="CSV file with the columns arch,ms: networks timed on the device.")
    ],
    device: Annotated[str, typer.Option(help="Name of the new device.")],
    holdout: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=10**6,
            help="Networks that only test the table; a fifth of them by default when there are "
            "more than 20, else none.",
        ),
    ] = None,
    seed: Seed = 0,
    tables: Tables = TABLES,
    as_json: Json = False,
) -> None:
    """Make a table for a new device from another's and 5 or more timed networks, 10 to 20 for use.

    Example: mobilenas latency transfer --table fbnet_pixel3 --space fbnet_cifar
    --timings phone.csv --device my-phone
    """
    from mobilenas.cost.latency import find_table, write_table
    from mobilenas.latency.transfer import read_timings, transfer_table
    from mobilenas.report.latency import rank_text
    from mobilenas.space import load_space

    chosen = load_space(space)
    result = transfer_table(
        find_table(table, chosen),
        chosen,
        read_timings(timings, chosen),
        device=device,
        holdout=holdout,
        seed=seed,
    )
    made = result.table
    used, loo = len(made.calibration.archs), made.calibration.loo_mape
    path = write_table(tables, made)
    if as_json:
        print_json(
            {
                "table": made.name,
                "file": str(path),
                "networks": used,
                "loo_mape": loo,
                "held_out": result.held_out,
                "seed": seed,
                "figures": {name: figures.model_dump() for name, figures in result.figures.items()},
            }
        )
        return
    print(f"{path}: {len(made.rows)} rows for {device}, fitted to {used} networks")
    print(f"leave-one-out error of these networks: {loo:.1%} on average")
    if not result.figures:
        print("no network was held out: time more than 20, or give --holdout")
    for name, figures in result.figures.items():
        print(
            f"{result.held_out} held-out networks (seed {seed}), {name}: {figures.mape:.1%} error"
            f" on average, Spearman {rank_text(figures.spearman)}"
        )
