"""The command `rank`: can the supernet be trusted? Heavy imports live inside."""

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
    is_given,
    parse_workers,
    print_json,
)


def rank(
    context: typer.Context,
    supernet: Annotated[Path, typer.Option(help="Run folder of supernet-train.")] = Path(
        "runs/supernet"
    ),
    data: MovedData = None,
    truth: Annotated[
        Path | None,
        typer.Option(
            help="CSV or parquet with the columns arch and accuracy, of stand-alone trainings."
        ),
    ] = None,
    benchmark: Annotated[
        str | None,
        typer.Option(help="macro (NAS-Bench-Macro) or nb101 (MixPath's part of NAS-Bench-101)."),
    ] = None,
    data_root: Annotated[
        Path | None,
        typer.Option(
            envvar="MOBILENAS_DATA",
            help="Folder that holds the benchmarks' files, as docs/ranking.md lists them.",
        ),
    ] = None,
    n: Annotated[
        int, typer.Option("-n", min=3, max=10**6, help="Networks at most, over all FLOPs.")
    ] = 300,
    recalibrate: Annotated[
        bool,
        typer.Option(help="Recalibrate batch norms for each arch, or keep the supernet's."),
    ] = True,
    zero_cost: Annotated[
        bool, typer.Option(help="Score untrained networks too: NASWOT and SynFlow.")
    ] = True,
    workers: Workers = "1",
    worker_timeout: WorkerTimeout = None,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/rank"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the ranking in --out, with the same flags.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare how a supernet ranks networks with how stand-alone training ranks them.

    Rank correlations with 95 % intervals, beside those of FLOPs, params and untrained networks,
    and what trusting the supernet under a budget costs. At least 30 networks are evidence.

    Example: mobilenas rank --supernet runs/supernet --benchmark macro --data-root DIR
    """
    from mobilenas.report.rank import describe_ranking
    from mobilenas.runs.lock import held
    from mobilenas.stages.rank import Ranking, run_rank

    if (truth is None) == (benchmark is None):
        raise BadInput("give one of --truth FILE and --benchmark macro|nb101")
    if benchmark is None and is_given(context, "data_root"):
        raise BadInput("--data-root goes with --benchmark; --truth names its file")
    asked = Ranking(n, seed, recalibrate, zero_cost)
    who = parse_workers(workers, worker_timeout)
    with held(out, "rank"):
        result = run_rank(
            *(supernet, truth, benchmark, data_root, asked, out),
            resume=resume,
            data=data,
            workers=who,
        )
    if as_json:
        print_json({"run": str(out)} | {k: v for k, v in result.items() if k != "archs"})
    else:
        print(describe_ranking(result))
        print(f"every arch in {out / 'rank.json'}; picture: {out / 'rank.png'}")
    check_all_done(result)
