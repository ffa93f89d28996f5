"""The command `sweep`. Heavy imports live inside."""

from pathlib import Path
from typing import Annotated

import typer

from mobilenas.base.errors import BadInput
from mobilenas.cli.options import (
    Json,
    MovedData,
    Seed,
    Workers,
    WorkerTimeout,
    check_all_done,
    parse_workers,
    print_json,
)


def sweep(
    flops: Annotated[
        str | None, typer.Option(help="Largest multiply-adds, comma separated: 300M,400M,500M.")
    ] = None,
    params: Annotated[
        str | None, typer.Option(help="Largest numbers of parameters: 3M,5M.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="Largest peaks of activation memory in bytes: 1M,2M.")
    ] = None,
    latency: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MS@DEVICE,...",
            help="Largest latencies on a device: 10ms@DEVICE,20ms@DEVICE. Once for each device.",
        ),
    ] = None,
    supernet: Annotated[Path, typer.Option(help="Run folder of supernet-train.")] = Path(
        "runs/supernet"
    ),
    data: MovedData = None,
    objectives: Annotated[
        str | None, typer.Option(help="As evolve takes them, but for prediction.")
    ] = None,
    population: Annotated[int, typer.Option(min=2, max=10**5, help="Archs a generation.")] = 20,
    generations: Annotated[
        int,
        typer.Option(min=1, max=10**6, help="Generations, the first population counted."),
    ] = 20,
    workers: Workers = "1",
    worker_timeout: WorkerTimeout = None,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/sweep"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the sweep in --out, with the same flags.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Search under many budgets through one supernet; an arch is measured once for all of them.

    Each combination of the limits is a budget with a run folder of its own, as evolve makes it, and
    the same front as evolve finds. sweep.json has the best network of each.

    Example: mobilenas sweep --flops 300M,400M,500M --latency 10ms@DEVICE,20ms@DEVICE
    """
    from mobilenas.cost.budget import Budget
    from mobilenas.report.text import sweep_table
    from mobilenas.runs.lock import all_held
    from mobilenas.stages.evolve import Search
    from mobilenas.stages.sweep import parse_budgets, run_sweep

    given = {"flops": flops, "params": params, "memory": memory}
    limits = {cost: text.split(",") for cost, text in given.items() if text is not None}
    limits |= {f"latency@{i}": text.split(",") for i, text in enumerate(latency or [])}
    if not limits:
        raise BadInput("give budgets: --flops 300M,400M, --params, --memory or --latency")
    budgets = parse_budgets(limits)
    search = Search(
        supernet,
        Budget(),
        objectives,
        population,
        generations,
        seed,
        data=data,
        workers=parse_workers(workers, worker_timeout),
    )
    with all_held([out, *(out / name for name in budgets)], "sweep"):  # each of them is a search
        found = run_sweep(search, budgets, out, resume=resume)
    if as_json:
        print_json({"run": str(out), **found})
    else:
        print(sweep_table(found))
        name = found["budgets"][0]["budget"]
        print(f"all in {out / 'sweep.json'}; next: mobilenas train --search {out / name}")
    check_all_done(found)
