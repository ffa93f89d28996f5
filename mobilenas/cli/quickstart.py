"""The command `quickstart`. Heavy imports live inside."""

from pathlib import Path
from typing import Annotated

import typer

from mobilenas.cli.options import Json, Seed, print_json


def quickstart(
    out: Annotated[Path, typer.Option(help="Folder for all runs.")] = Path("runs/quickstart"),
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """The whole job, small, on the built-in digits: supernet, search, training, ONNX, and a report.

    Takes a few minutes; run it again after a kill and it continues.

    Example: mobilenas quickstart
    """
    from mobilenas.report.text import (
        describe_export,
        describe_training,
        front_table,
        selected_on,
    )
    from mobilenas.runs import RunFolder
    from mobilenas.runs.lock import all_held
    from mobilenas.stages.quickstart import FOLDERS, REPORT, run_quickstart

    with all_held([out / name for name in FOLDERS], "quickstart"):
        result, trained, report = run_quickstart(out, seed)
    front = [evaluation.row() for evaluation in result.front]
    if as_json:
        export = report.to_dict()
        found = RunFolder.open(out / "train", "train").facts.get("data")
        results = {"front": front, "train": trained, "export": export}
        results["report"] = str(out / REPORT)
        print_json({"run": str(out), "data": found, **results})
        return
    print(front_table(front))
    print(selected_on(RunFolder.open(out / "evolve", "evolve").result()))
    print(f"\npicture of the front: {out / 'evolve' / 'front.png'}")
    print("\nthe best of them, retrained from the weights that it has in the supernet:")
    print(describe_training(trained, RunFolder.open(out / "train", "train").seconds))
    print(f"network, which timm loads too: {out / 'train' / 'network'}")
    print("\nONNX:")
    print(describe_export(report.to_dict()))
    print(f"\nreport of all of it, to open in a browser: {out / REPORT}")
    print(
        "\nnext, with your own images and budget:\n"
        "  mobilenas space list\n"
        "  mobilenas supernet-train --space SPACE --data DIR --preset cifar10-quick\n"
        "  mobilenas evolve --flops BUDGET --objectives score\n"
        "  mobilenas train --search runs/evolve --preset cifar10-quick\n"
        "  mobilenas export --onnx"
    )
