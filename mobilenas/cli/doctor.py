"""The command `doctor`: what this installation can do. Heavy imports live inside."""

from typing import Annotated

import typer

from mobilenas.cli.options import Json, print_json


def doctor(
    try_out: Annotated[
        bool,
        typer.Option(
            "--try",
            help="Convert and run a small network in each runtime, and import what detection "
            "needs: up to a minute.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Show what this installation can do: versions, accelerators, kernels, runtimes, tables.

    yes: it was used. installed: the version is right, nothing was run. broken: it is there and does
    not work. The exit code is 0 whatever is missing.

    Example: mobilenas doctor --try
    """
    from mobilenas.report.doctor import describe_doctor
    from mobilenas.stages.doctor import examine

    facts = examine(try_out=try_out)
    if as_json:
        print_json(facts)
    else:
        print(describe_doctor(facts))
