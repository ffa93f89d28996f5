"""The command `search`. Heavy imports live inside."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mobilenas.cli.options import (
    DATA_HELP,
    WORKERS_TEXT,
    Flops,
    Json,
    Latency,
    Memory,
    Overrides,
    Params,
    Resume,
    Seed,
    is_given,
    parse_budget,
    parse_workers,
    print_json,
)

if TYPE_CHECKING:
    from mobilenas.stages.gradient_asked import SearchAsked
    from mobilenas.stages.gradient_run import GradientRun
    from mobilenas.workers import WorkersAsked


def search(
    context: typer.Context,
    strategy: Annotated[
        str, typer.Option(help="How the architecture is learnt; --list names all.")
    ] = "gdas",
    space: Annotated[str, typer.Option(help="Shipped space or YAML file, with overrides.")] = "s1",
    data: Annotated[str, typer.Option(help=DATA_HELP)] = "digits",
    flops: Flops = None,
    params: Params = None,
    memory: Memory = None,
    latency: Latency = None,
    from_run: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Run folder of a finished search whose supernet darts-pt goes on with, or of "
            "supernet-train, for svge; its space and data are taken too.",
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Recipe: cpu, cpu-small or cpu-tiny (for CPUs), or a YAML file; by default the "
            "published one of the strategy, hours on an accelerator."
        ),
    ] = None,
    settings: Overrides = None,
    benchmark: Annotated[
        str | None,
        typer.Option(
            help="macro or nb201: compare the arch with all others by published accuracies."
        ),
    ] = None,
    data_root: Annotated[
        Path | None,
        typer.Option(
            envvar="MOBILENAS_DATA",
            help="Folder that holds the benchmarks' files, as docs/strategies.md lists them.",
        ),
    ] = None,
    seed: Seed = 0,
    seeds: Annotated[
        str | None,
        typer.Option(
            help="Search once with each of these, such as 0,1,2, in folders seed-N of --out."
        ),
    ] = None,
    workers: Annotated[
        str,
        typer.Option(
            metavar=WORKERS_TEXT,
            help="With --seeds: searches at once, which share the cores, or a Ray cluster that "
            "does them.",
        ),
    ] = "1",
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/search"),
    resume: Resume = False,
    list_methods: Annotated[
        bool, typer.Option("--list", help="Show the strategies and end.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Learn weights and architecture together by gradient, and derive an arch within a budget.

    Writes front.json, with the one arch, which `train --search` takes, and, where a network
    computes what was trained, that arch with the weights of the supernet, which `export --run`
    takes. Exit code 3 and the feasible range when no arch meets the budget. Kill it at any time;
    --resume continues to the same result.

    In the space nb201 the devices of --latency are those that NAS-Bench-201 lists, in a file below
    --data-root. The space darts takes no budget.

    Example: mobilenas search --strategy gdas --space s1:width=0.25 --data DIR --flops 60M

    Example: mobilenas search --strategy darts-pt --from runs/search --out runs/projected

    Example: mobilenas search --strategy gdas --seeds 0,1,2 --workers 2 --out runs/gdas

    Example: mobilenas search --list
    """
    if list_methods:
        return _list_methods(as_json)
    budget = replace(parse_budget(flops, params, memory, latency), data_root=data_root)
    from mobilenas.base.errors import BadInput
    from mobilenas.base.process import is_one_of_several
    from mobilenas.stages.gradient_asked import SearchAsked

    asked = SearchAsked(
        strategy=strategy,
        space=space,
        data=data,
        budget=budget,
        preset=preset,
        overrides=tuple(settings or ()),
        parent=from_run,
        benchmark=benchmark,
        data_root=data_root,
        given=frozenset(x for x in ("strategy", "space", "data", "seed") if is_given(context, x)),
    )
    if is_given(context, "data_root") and not (benchmark or latency or resume):
        raise BadInput("--data-root goes with --benchmark, or --latency of a benchmark's devices")
    if seeds is None:
        if is_given(context, "workers"):
            raise BadInput("--workers goes with --seeds; one search is one process")
        if from_run and resume:
            raise BadInput("--from: the run has what it inherits; leave it out to resume")
        return _search(asked, seed, out, resume, as_json)
    if is_given(context, "seed"):
        raise BadInput("give --seed or --seeds")
    if is_one_of_several():
        raise BadInput("--seeds: the processes of torchrun are of one search; take --workers")
    listed = benchmark or (resume and latency)
    root = str(data_root) if listed and data_root else None
    options = [("--data", asked.moved), ("--benchmark", benchmark), ("--data-root", root)]
    if resume:  # a budget says where latency tables are now
        options += [("--flops", flops), ("--params", params), ("--memory", memory)]
        options += [("--latency", each) for each in latency or []]
    flags = [f"{name}={value}" for name, value in options if value]
    return _search_seeds(asked, seeds, parse_workers(workers), flags, out, resume, as_json)


def _list_methods(as_json: bool) -> None:
    from mobilenas.report.text import table
    from mobilenas.strategies.methods import METHODS

    rows = [
        {
            "strategy": name,
            "paper": x.paper,
            "spaces": x.spaces,
            "memory": x.memory,
            "needs": x.needs,
            "candidates run a step": x.runs,
        }
        for name, x in METHODS.items()
    ]
    if as_json:
        print_json({"strategies": rows})
    else:
        print(table(rows, {key: key for key in rows[0]}))


def _search_seeds(
    asked: "SearchAsked",
    seeds: str,
    workers: "WorkersAsked",
    flags: list[str],
    out: Path,
    resume: bool,
    as_json: bool,
) -> None:
    """A search with each seed, in processes that are given the flags."""
    from mobilenas.base.errors import WorkFailed
    from mobilenas.report.text import seeds_table
    from mobilenas.runs.folder import is_run
    from mobilenas.runs.lock import held
    from mobilenas.stages.seeds import parse_seeds, search_seeds

    def start(path: Path, seed: int) -> "GradientRun":
        there = resume and is_run(path, "search")
        return asked.resume(path, seed) if there else asked.create(path, seed)

    with held(out, "search"):
        rows, failed = search_seeds(
            start,
            out,
            parse_seeds(seeds),
            flags,
            workers,
            resume=resume,
            compared=asked.benchmark is not None,
        )
    if as_json:
        print_json({"run": str(out), "seeds": rows, "failed": failed})
    elif rows:
        print(seeds_table(rows))
        print(f"searches in {out}; next: mobilenas train --search {rows[0]['run']}")
    if failed:
        ends = ", ".join(f"{name} ({end})" for name, end in failed.items())
        raise WorkFailed(f"searches failed: {ends}; --resume tries again")


def _search(asked: "SearchAsked", seed: int, out: Path, resume: bool, as_json: bool) -> None:
    """One search, in this process or in those of torchrun."""
    from mobilenas.report.text import front_table, standing_lines
    from mobilenas.runs.lock import held
    from mobilenas.stages.gradient_run import open_search_run
    from mobilenas.stages.search import run_search
    from mobilenas.strategies.methods import strategy_class
    from mobilenas.train.distributed import joined

    def start() -> "GradientRun":
        lock.enter_context(held(out, "search"))
        if resume:
            return asked.resume(out, seed if "seed" in asked.given else None)
        processes.share(asked.config().batch_size)
        return asked.create(out, seed)

    with ExitStack() as lock:
        with joined() as processes:
            run = processes.main_first(
                start, lambda: open_search_run(out, data=asked.moved, budget=asked.budget)
            )
            result = run_search(run, asked.truths(run.searchable.space), processes)
        if not processes.is_main:
            return
    if as_json:
        about = {"data": run.images.data.found.to_dict()}
        about |= {key: result[key] for key in ("passes", "standing")}
        print_json({"run": str(out), **about, "front": result["front"]})
        return
    print(front_table(result["front"]))
    what = strategy_class(run.settings.strategy).answer
    within = " within the budget" if run.settings.limits else ""
    print(f"{what}{within}, after {result['passes']:.1f} passes")
    for line in standing_lines(result["standing"]):
        print(line)
    print(f"search in {out}; next: mobilenas train --search {out}")
