"""The commands of the main job: supernet-train, evolve, quickstart.

Heavy imports live inside commands.
"""

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from mobilenas.cli.options import (
    DATA_HELP,
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


def supernet_train(
    context: typer.Context,
    space: Annotated[str, typer.Option(help="Shipped space or YAML file, with overrides.")] = "s1",
    data: Annotated[
        str,
        typer.Option(help=DATA_HELP),
    ] = "digits",
    config: Annotated[
        str, typer.Option(help="Preset of configs/supernet or YAML file.")
    ] = "default",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Replace a key of the config: lr=0.05.")
    ] = None,
    sampler: Annotated[str | None, typer.Option(help="uniform or fair.")] = None,
    bn: Annotated[str | None, typer.Option(help="shadow or shared.")] = None,
    passes: Annotated[
        float | None, typer.Option(help="Budget in passes over the training images.")
    ] = None,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/supernet"),
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the run in --out; other flags may be left out."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a supernet. Kill it at any time; --resume continues to the same result.

    Several processes: torchrun --nproc-per-node N -m mobilenas supernet-train ...

    Example: mobilenas supernet-train --space s1:width=0.25 --data digits --config quick
    """
    from mobilenas.space import CellSpace, load_any_space
    from mobilenas.train.config import load_supernet_config
    from mobilenas.train.distributed import joined
    from mobilenas.train.loop import train_supernet
    from mobilenas.train.run import SupernetRun, create_run, open_run

    given = {"sampler": sampler, "bn": bn, "passes": passes}
    flags = [f"{key}={value}" for key, value in given.items() if value is not None]

    def start() -> SupernetRun:
        chosen = load_supernet_config(config, (settings or []) + flags)
        if not resume:
            processes.share(chosen.batch_size)
            return create_run(out, load_any_space(space), data, seed, chosen)
        run = open_run(out)
        config_given = flags or settings or is_given(context, "config")
        run.check_unchanged(
            space=load_any_space(space) if is_given(context, "space") else None,
            data=data if is_given(context, "data") else None,
            seed=seed if is_given(context, "seed") else None,
            config=chosen if config_given else None,
        )
        return run

    with joined() as processes:
        run = processes.main_first(start, lambda: open_run(out))
        train_supernet(run, processes)
    if not processes.is_main:
        return
    from mobilenas.pipeline import score_supernet
    from mobilenas.report.text import table

    rows = score_supernet(run)
    if as_json:
        print_json({"run": str(out), "validation": rows})
        return
    columns = {
        "name": "arch",
        "flops": "FLOPs",
        "accuracy_inherited_bn": "accuracy",
        "accuracy_recalibrated": "recalibrated",
    }
    print(table(rows, columns))
    print(f"accuracy on {len(run.splits.validate)} validation images")
    cells = isinstance(run.space, CellSpace)
    verb, flag = ("rank", "--truth <file>") if cells else ("evolve", "--flops <budget>")
    print(f"supernet in {out}; next: mobilenas {verb} --supernet {out} {flag}")


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
    from mobilenas.train.folder import worked_seconds

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
    print(describe_training(trained, worked_seconds(out / "train")))
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
