"""The commands of the main job: supernet-train, evolve, quickstart.

Heavy imports live inside commands.
"""

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from mobilenas.cli.options import (
    Flops,
    Json,
    Latency,
    Memory,
    Params,
    Seed,
    is_given,
    parse_budget,
    print_json,
)


def quickstart(
    out: Annotated[Path, typer.Option(help="Folder for all runs.")] = Path("runs/quickstart"),
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """The whole job, small, on the built-in digits: supernet, search, training, verified ONNX.

    Takes a few minutes; run it again after a kill and it continues.

    Example: mobilenas quickstart
    """
    from mobilenas.pipeline import run_quickstart
    from mobilenas.report.text import describe_export, describe_training, front_table
    from mobilenas.runs import RunFolder

    result, trained, report = run_quickstart(out, seed)
    front = [evaluation.row() for evaluation in result.front]
    if as_json:
        export = report.to_dict()
        print_json({"run": str(out), "front": front, "train": trained, "export": export})
        return
    print(front_table(front))
    print(_selected_on(out / "evolve"))
    print(f"\npicture of the front: {out / 'evolve' / 'front.png'}")
    print("\nthe most accurate of them, trained on alone from the weights it has in the supernet:")
    print(describe_training(trained, RunFolder.open(out / "train", "train").seconds))
    print(f"network, which timm loads too: {out / 'train' / 'network'}")
    print("\nONNX:")
    print(describe_export(report.to_dict()))
    print(
        "\nnext, with your own images and budget:\n"
        "  mobilenas space list\n"
        "  mobilenas supernet-train --space s1 --data DIR\n"
        "  mobilenas evolve --flops 500M\n"
        "  mobilenas train --search runs/evolve --inherit runs/supernet\n"
        "  mobilenas export --onnx"
    )


def _show_front(result: Any, out: Path, as_json: bool) -> None:
    from mobilenas.report.text import front_table

    front = [evaluation.row() for evaluation in result.front]
    if as_json:
        print_json({"run": str(out), "evaluations": len(result.evaluations), "front": front})
        return
    print(front_table(front))
    print(_selected_on(out))
    print(f"picture: {out / 'front.png'}; next: mobilenas export --onnx --run {out}")


def _selected_on(search: Path) -> str:
    from mobilenas.base.files import read_json

    settings = read_json(search / "front.json")["settings"]
    count = settings["evaluator"]["validation_images"]
    line = f"accuracy on {count} validation images, those that the search selected on"
    if "score" in settings["objectives"]:
        line += (
            "\nscore: accuracy + naswot (of the untrained network), each in standard deviations of "
            "the first population"
        )
    return line


def evolve(
    context: typer.Context,
    flops: Flops = None,
    params: Params = None,
    memory: Memory = None,
    latency: Latency = None,
    supernet: Annotated[Path, typer.Option(help="Run folder of supernet-train.")] = Path(
        "runs/supernet"
    ),
    objectives: Annotated[
        str | None,
        typer.Option(
            help="accuracy or score, and at least one of flops, params, memory, latency (or "
            "latency@DEVICE), comma separated. By default accuracy,flops, or with --latency "
            "accuracy and each latency given. score: the supernet's accuracy and a score of the "
            "untrained network (NASWOT), which together order networks better than the former."
        ),
    ] = None,
    resolution: Annotated[
        str | None,
        typer.Option(
            metavar="N|HxW",
            help="Pixels of a detector's images, 320 or 800x1280: all costs are then those of the "
            "backbone at that size, without head and classifier.",
        ),
    ] = None,
    population: Annotated[int, typer.Option(min=2, help="Archs a generation.")] = 20,
    generations: Annotated[int, typer.Option(min=1, help="The first population counts.")] = 20,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/evolve"),
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the search in --out; other flags may be left out."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Search the accuracy/cost front under a budget with NSGA-II, through a trained supernet.

    Writes front.json, history.csv, front.png and evaluations.jsonl. Exit code 3 and the feasible
    range when no arch meets the budget.

    Example: mobilenas evolve --latency 20ms@DEVICE --params 5M

    Example, for detection: mobilenas evolve --resolution 320 --flops 600M
    """
    budget = parse_budget(flops, params, memory, latency)
    from mobilenas.base.units import parse_image_size
    from mobilenas.pipeline import Search, resumed, run_evolve

    size = None if resolution is None else parse_image_size(resolution)
    search = Search(supernet, budget, objectives, population, generations, seed, size)
    if resume:
        given = {field.name for field in fields(search) if is_given(context, field.name)}
        search = resumed(out, search, given | ({"budget"} if budget else set()))
    result = run_evolve(search, out, resume=resume)
    _show_front(result, out, as_json)
