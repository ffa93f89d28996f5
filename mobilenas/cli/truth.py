"""The command `truth`: stand-alone accuracies of archs. Heavy imports live inside."""

from pathlib import Path
from typing import Annotated

import typer

from mobilenas.base.errors import WorkFailed
from mobilenas.cli.options import (
    TRAINING_PRESETS,
    WORKERS_TEXT,
    ChosenSpace,
    Inherit,
    Json,
    Overrides,
    Resume,
    TrainingData,
    is_given,
    parse_workers,
    print_json,
)


def truth(
    context: typer.Context,
    space: ChosenSpace = None,
    n: Annotated[
        int,
        typer.Option(
            "-n", min=1, max=10**5, help="Archs, drawn over all FLOPs of the space, or of --search."
        ),
    ] = 32,
    arch: Annotated[
        list[str] | None, typer.Option(help="An arch in place of drawn ones; once for each.")
    ] = None,
    search: Annotated[
        Path | None,
        typer.Option(
            help="Run folder of evolve or search: archs spread over its front, the ends first."
        ),
    ] = None,
    data: TrainingData = None,
    preset: Annotated[
        str | None,
        typer.Option(help=f"{TRAINING_PRESETS} By default cifar10-quick, digits for the digits."),
    ] = None,
    settings: Overrides = None,
    inherit: Inherit = None,
    workers: Annotated[
        str,
        typer.Option(
            metavar=WORKERS_TEXT,
            help="Trainings at once, which share the cores, or a Ray cluster that does them; "
            "OMP_NUM_THREADS is of each.",
        ),
    ] = "1",
    seed: Annotated[
        int,
        typer.Option(
            min=0,
            max=2**32 - 1,
            help="Seed of everything random. Another one than the supernet's, or both err on the "
            "same validation images.",
        ),
    ] = 1,
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/truth"),
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Train archs of a space, stand-alone, for what they are really worth: the ground truth.

    Accuracies on validation images after the last epoch are in RUN/truth.csv, which grows with each
    training. Kill it at any time; --resume continues to the same result. A training whose process
    dies is started once more; if it dies again it is left out, and the exit code is 1.

    Example: mobilenas truth --space s1:width=0.25 --data DIR -n 32 --workers 2
    """
    from mobilenas.report.text import describe_truth
    from mobilenas.runs import RunFolder
    from mobilenas.runs.lock import held
    from mobilenas.stages.trainings import TRUTH_FILE
    from mobilenas.stages.truth import TruthAsked, run_truth

    asked = TruthAsked(
        space=space,
        archs=tuple(arch or ()),
        search=search,
        n=n if is_given(context, "n") else None,
        data=data,
        inherit=inherit,
        seed=seed if is_given(context, "seed") else None,
        preset=preset,
        overrides=tuple(settings or ()),
        workers=parse_workers(workers),
    )
    with held(out, "truth"):
        trained = run_truth(asked, out, resume=resume)
    file = out / TRUTH_FILE
    if as_json:
        found = RunFolder.open(out, "truth").fact("data")
        report = {"archs": trained.rows, "failed": trained.failed}
        print_json({"run": str(out), "data": found, "truth": str(file), **report})
    else:
        print(describe_truth(trained.rows))
        print(f"accuracies in {file}; next: mobilenas rank --truth {file}")
    if trained.failed:
        plural = "s" if len(trained.failed) > 1 else ""
        ends = ", ".join(f"{name} ({end})" for name, end in trained.failed.items())
        raise WorkFailed(
            f"{len(trained.failed)} training{plural} failed: {ends}; output.txt in the folder of "
            "each says more, and --resume tries again"
        )
