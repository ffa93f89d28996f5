"""The command `evolve`. Heavy imports live inside."""

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from mobilenas.cli.options import (
    Flops,
    Json,
    Latency,
    Memory,
    MovedData,
    Overrides,
    Params,
    Resume,
    Seed,
    Workers,
    WorkerTimeout,
    check_all_done,
    is_given,
    parse_budget,
    parse_workers,
    print_json,
)


def evolve(
    context: typer.Context,
    flops: Flops = None,
    params: Params = None,
    memory: Memory = None,
    latency: Latency = None,
    supernet: Annotated[Path, typer.Option(help="Run folder of supernet-train.")] = Path(
        "runs/supernet"
    ),
    data: MovedData = None,
    objectives: Annotated[
        str | None,
        typer.Option(
            help="One of score, accuracy and prediction, and some of flops, params, memory and "
            "latency (or latency@DEVICE), comma separated; without a cost the one best network "
            "of the budget is looked for. By default score,flops, or with --latency score "
            "and each latency given; prediction in place of score with --truth or --rounds. "
            "score: the supernet's accuracy and a score of the untrained network (NASWOT), which "
            "together order networks better than the accuracy alone."
        ),
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(
            help="File of stand-alone accuracies of 8 archs or more, as `mobilenas truth` makes "
            "it: search by what these, with all that is measured, predict of other archs."
        ),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=200,  # each of them has a lock open
            help="Rounds of: search, train some of what was found stand-alone, search on by what "
            "these reached.",
        ),
    ] = None,
    per_round: Annotated[
        int,
        typer.Option(
            min=1, max=10_000, help="Archs that are trained a round, 8 at least in the first."
        ),
    ] = 8,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Recipe of the trainings of --rounds: preset of configs/train or YAML file; "
            "cifar10-quick by default, digits for the digits."
        ),
    ] = None,
    settings: Overrides = None,
    inherit: Annotated[
        bool,
        typer.Option(
            "--inherit",
            help="Trainings of --rounds start from the weights of --supernet (a flag, no path).",
        ),
    ] = False,
    workers: Workers = "1",
    worker_timeout: WorkerTimeout = None,
    resolution: Annotated[
        str | None,
        typer.Option(
            metavar="N|HxW",
            help="Pixels of a detector's images, 320 or 800x1280: all costs are then those of the "
            "backbone at that size, without head and classifier.",
        ),
    ] = None,
    population: Annotated[int, typer.Option(min=2, max=10**5, help="Archs a generation.")] = 20,
    generations: Annotated[
        int, typer.Option(min=1, max=10**6, help="Generations, the first population counted.")
    ] = 20,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/evolve"),
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Search the accuracy/cost front under a budget with NSGA-II, through a trained supernet.

    Writes front.json, history.csv, front.png and evaluations.jsonl. Exit code 3 and the feasible
    range when no arch meets the budget.

    Example: mobilenas evolve --latency 20ms@DEVICE --params 5M

    Example, for the one best network: mobilenas evolve --flops 400M --objectives score

    Example, with stand-alone trainings in between:
    mobilenas evolve --flops 400M --objectives prediction --rounds 4

    Example, for detection: mobilenas evolve --resolution 320 --flops 600M
    """
    budget = parse_budget(flops, params, memory, latency)
    from mobilenas.base.units import parse_image_size
    from mobilenas.report.text import front_table, selected_on, trained_accuracy
    from mobilenas.runs import RunFolder
    from mobilenas.runs.lock import all_held, held
    from mobilenas.stages.evolve import Search, resumed, run_evolve
    from mobilenas.stages.rounds import RoundsAsked, round_folder, run_rounds

    who = parse_workers(workers, worker_timeout)
    size = None if resolution is None else parse_image_size(resolution)
    search = Search(
        supernet, budget, objectives, population, generations, seed, size, data, truth, who
    )
    asked = RoundsAsked(
        rounds,
        per_round if is_given(context, "per_round") else None,
        preset,
        tuple(settings or ()),
        inherit,
    )
    with held(out, "evolve"):
        if resume:
            given = {field.name for field in fields(search) if is_given(context, field.name)}
            search = resumed(out, search, given | ({"budget"} if budget else set()))
        training = asked.settings(search, out, resume=resume)
        if training is None:
            result = run_evolve(search, out, resume=resume)
        else:
            folders = (round_folder(out, number) for number in range(1, training.rounds + 1))
            with all_held(folders, "evolve"):
                result = run_rounds(search, training, out, resume=resume)
    front = [evaluation.row() for evaluation in result.front]
    run = RunFolder.open(out, "evolve")
    found: dict[str, Any] = run.result()
    if as_json:
        about = {"data": run.facts.get("data"), "evaluations": len(result.evaluations)}
        told = ("truth", "prediction", "left_out", "failed")
        about |= {key: found[key] for key in told if key in found}
        print_json({"run": str(out), **about, "front": front})
    else:
        print(front_table(front, trained_accuracy(found)))
        print(selected_on(found))
        print(f"picture: {out / 'front.png'}; next: mobilenas train --search {out}")
    check_all_done(found)
