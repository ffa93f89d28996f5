"""The command `supernet-train`. Heavy imports live inside."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from mobilenas.base.errors import BadInput
from mobilenas.cli.options import DATA_HELP, Json, Overrides, Resume, Seed, is_given, print_json


def supernet_train(
    context: typer.Context,
    space: Annotated[str, typer.Option(help="Shipped space or YAML file, with overrides.")] = "s1",
    data: Annotated[
        str,
        typer.Option(help=DATA_HELP),
    ] = "digits",
    preset: Annotated[
        str,
        typer.Option(
            help="Recipe: default (200 passes, for accelerators), cifar10-quick, cifar10-cpu, "
            "ranking-cpu or quick (for CPUs), imagenet, or a YAML file."
        ),
    ] = "default",
    config: Annotated[str | None, typer.Option(hidden=True, help="--preset, as it was.")] = None,
    settings: Overrides = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            "--strategy", "--sampler", help="Which archs a step trains: fair, uniform or sandwich."
        ),
    ] = None,
    bn: Annotated[
        str | None, typer.Option(help="Batch norms: shadow, one a number of paths, or shared.")
    ] = None,
    passes: Annotated[
        float | None, typer.Option(help="Budget in passes over the training images.")
    ] = None,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/supernet"),
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Train a supernet: the weights that all networks of a space share.

    Kill it at any time; --resume continues to the same result. Then evolve searches through it.

    Several processes: torchrun --nproc-per-node N -m mobilenas supernet-train ...

    Example: mobilenas supernet-train --space s1:width=0.25 --data digits --preset quick

    Example: mobilenas supernet-train --space s2 --data imagenet/ --preset imagenet
    """
    from mobilenas.report.text import table
    from mobilenas.runs.lock import held
    from mobilenas.space import CellSpace, load_any_space
    from mobilenas.stages.supernet_train import (
        create_supernet_run,
        resume_supernet_run,
        score_supernet,
        train_supernet,
    )
    from mobilenas.train.config import SupernetConfig, load_supernet_config
    from mobilenas.train.distributed import joined
    from mobilenas.train.supernets import SupernetRun, open_supernet_run

    given = {"strategy": strategy, "bn": bn, "passes": passes}
    flags = [f"{key}={value}" for key, value in given.items() if value is not None]

    if config and is_given(context, "preset"):
        raise BadInput("--config is the earlier name of --preset: give one of them")
    moved = data if is_given(context, "data") else None
    config_given = flags or settings or is_given(context, "preset") or config

    def recipe() -> SupernetConfig:
        return load_supernet_config(config or preset, (settings or []) + flags)

    def start() -> SupernetRun:
        lock.enter_context(held(out, "supernet-train"))
        chosen = recipe()
        if not resume:
            processes.share(chosen.batch_size)
            return create_supernet_run(out, load_any_space(space), data, seed, chosen)
        again = {
            "space": load_any_space(space) if is_given(context, "space") else None,
            "data": moved,
            "seed": seed if is_given(context, "seed") else None,
            "config": chosen if config_given else None,
        }
        return resume_supernet_run(out, again)

    def reopen() -> SupernetRun:
        return open_supernet_run(
            out, data=moved, teacher=recipe().saved_teacher if config_given else None
        )

    with ExitStack() as lock:
        with joined() as processes:
            run = processes.main_first(start, reopen)
            train_supernet(run, processes)
        if not processes.is_main:
            return
        rows = score_supernet(run)
    if as_json:
        found = run.images.data.found.to_dict()
        print_json({"run": str(out), "data": found, "validation": rows})
        return
    columns = {
        "name": "arch",
        "flops": "FLOPs",
        "accuracy_inherited_bn": "accuracy",
        "accuracy_recalibrated": "recalibrated",
    }
    print(table(rows, columns))
    print(f"accuracy on {len(run.images.splits.validate)} validation images")
    cells = isinstance(run.space, CellSpace)
    verb, flag = ("rank", "--truth <file>") if cells else ("evolve", "--flops <budget>")
    print(f"supernet in {out}; next: mobilenas {verb} --supernet {out} {flag}")
