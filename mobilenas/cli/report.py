"""The command `report`. Heavy imports live inside."""

from pathlib import Path
from typing import Annotated

import typer

from mobilenas.cli.options import Json, print_json


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Run folders of any kind, or folders of runs."),
    ],
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("report.html"),
    as_json: Json = False,
) -> None:
    """Write one HTML file of runs and of all that they were made from: fronts, archs, curves,
    rankings, latencies, detections, exports, and what each number is worth.

    It needs no network, and prints well. --json prints the same content as data in its place.

    Example: mobilenas report runs/train

    Example: mobilenas report runs/evolve runs/evolve-20ms --out searches.html
    """
    from mobilenas.report.page.content import report_content
    from mobilenas.report.page.write import write_page

    content = report_content(runs)
    if as_json:
        print_json(content)
        return
    write_page(content, out)
    for key in ("asked", "found", "compared"):
        print(f"{key}: {content[key]}")
    for note in content["notes"]:
        print(f"note: {note}")
    print(f"report: {out}")
