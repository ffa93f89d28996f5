"""The command `train`. Heavy imports live inside."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from mobilenas.cli.options import (
    TRAINING_PRESETS,
    ChosenSpace,
    Inherit,
    Json,
    Overrides,
    Resume,
    Seed,
    TrainingData,
    is_given,
    print_json,
)


def train(
    context: typer.Context,
    space: ChosenSpace = None,
    arch: Annotated[str | None, typer.Option(help="Arch of the space, by its text form.")] = None,
    search: Annotated[
        Path | None,
        typer.Option(
            help="Run folder of evolve or search: train what it found, on the data it used."
        ),
    ] = None,
    pick: Annotated[
        str | None,
        typer.Option(
            help="best (accuracy, or score; the default), knee (trade-off) or cheapest of --search."
        ),
    ] = None,
    data: TrainingData = None,
    preset: Annotated[
        str | None,
        typer.Option(help=f"{TRAINING_PRESETS} By default cifar10, digits for the digits."),
    ] = None,
    settings: Overrides = None,
    inherit: Inherit = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="Saved network to start from; its space and arch are the default."),
    ] = None,
    resolution: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Side of the images, if not the space's.")
    ] = None,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/train"),
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Train one network, stand-alone.

    The network of the best validation accuracy is in RUN/network, which timm loads too. Kill it at
    any time; --resume continues to the same result. Several processes:
    torchrun --nproc-per-node N -m mobilenas train ...

    Example: mobilenas train --search runs/evolve --preset cifar10-quick --inherit runs/supernet
    """
    from mobilenas.report.text import describe_training
    from mobilenas.runs.lock import held
    from mobilenas.stages.train import (
        Asked,
        create_network_run,
        finish_train,
        reopen_network_run,
        resume_network_run,
        train_network,
        training_settings,
    )
    from mobilenas.train.distributed import joined
    from mobilenas.train.networks import NetworkRun

    chosen_seed = seed if is_given(context, "seed") else None
    recipe = (preset, tuple(settings or ()))
    asked = Asked(
        space, arch, search, pick, data, inherit, weights, resolution, chosen_seed, *recipe
    )

    def start() -> NetworkRun:
        lock.enter_context(held(out, "train"))
        if resume:
            return resume_network_run(out, asked)
        chosen = training_settings(asked)
        processes.share(chosen.config.batch_size)
        return create_network_run(out, chosen, search=search)

    with ExitStack() as lock:
        with joined() as processes:
            run = processes.main_first(start, lambda: reopen_network_run(out, asked))
            train_network(run, processes)
        if not processes.is_main:
            return
        result = finish_train(run)
    if as_json:
        print_json({"run": str(out), "data": run.images.data.found.to_dict(), **result})
        return
    print(describe_training(result, run.folder.seconds))
    print(f"network in {out / 'network'}; next: mobilenas export --onnx --run {out}")
