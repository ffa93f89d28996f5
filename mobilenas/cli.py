"""The command line: parses, calls one function, prints. Heavy imports live inside commands."""

import json
import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mobilenas import __version__
from mobilenas.errors import BadInput, Diverged, InfeasibleBudget, VerificationFailed
from mobilenas.process import tune_process

app = typer.Typer(
    name="mobilenas",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Find convolutional networks for a device: supernet, search under a budget, ONNX.\n\n"
    "FLOPs are multiply-adds of convolution and linear layers for one image.",
)
space_app = typer.Typer(no_args_is_help=True, help="What may be built: the search spaces.")
arch_app = typer.Typer(no_args_is_help=True, help="Single networks of a space.")
app.add_typer(space_app, name="space")
app.add_typer(arch_app, name="arch")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
SpaceName = Annotated[
    str,
    typer.Argument(
        metavar="SPACE",
        help="A shipped space or a YAML file, with overrides: s1:width=0.25,resolution=32.",
    ),
]


def main() -> None:
    """Run the command line; errors of the user are one line on stderr and an exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    tune_process()
    try:
        app()
    except BadInput as error:
        _fail(error, 2)
    except InfeasibleBudget as error:
        _fail(error, 3)
    except VerificationFailed as error:
        _fail(f"not exported: {error}", 1)
    except (FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        _fail(error, 2)
    except (Diverged, OSError) as error:
        _fail(error, 1)
    except SystemExit as stop:
        if stop.code != 130:  # what typer makes of an interrupt, without a word
            raise
        _fail("interrupted; a run is continued with --resume, a quickstart by itself", 130)


def _fail(error: object, code: int) -> None:
    print(f"mobilenas: {error}", file=sys.stderr)
    raise SystemExit(code)


def _print_json(value: object) -> None:
    print(json.dumps(value))


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@space_app.command("list")
def space_list(as_json: Json = False) -> None:
    """List the shipped spaces.

    Example: mobilenas space list
    """
    from mobilenas.space import list_spaces, load_space

    spaces = [load_space(name) for name in list_spaces()]
    if as_json:
        _print_json({s.name: s.spec.description for s in spaces})
        return
    for space in spaces:
        print(f"{space.name:8}  {space.spec.description}")


@space_app.command("show")
def space_show(
    space: SpaceName,
    flops: Annotated[
        str | None, typer.Option(help="Give the share of the space within this budget: 500M.")
    ] = None,
    params: Annotated[str | None, typer.Option(help="The same for parameters: 5M.")] = None,
    as_json: Json = False,
) -> None:
    """Show the choices of a space, its size, and the range of its costs.

    Example: mobilenas space show s1 --flops 500M
    """
    from mobilenas.report.text import describe_space, space_facts
    from mobilenas.space import load_space

    facts = space_facts(load_space(space), parse_limits(flops, params))
    if as_json:
        _print_json(facts)
    else:
        print(describe_space(facts))


@arch_app.command("sample")
def arch_sample(
    space: SpaceName,
    n: Annotated[int, typer.Option("-n", min=1, help="How many.")] = 1,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Draw archs at random, one text form a line.

    Example: mobilenas arch sample s1 -n 5
    """
    import numpy as np

    from mobilenas.space import load_space

    rng = np.random.default_rng(seed)
    loaded = load_space(space)
    archs = [str(loaded.sample(rng)) for _ in range(n)]
    if as_json:
        _print_json({"space": loaded.name, "archs": archs})
    else:
        print("\n".join(archs))


@arch_app.command("cost")
def arch_cost(
    space: SpaceName,
    arch: Annotated[str, typer.Argument(help="Text form, as `arch sample` prints it.")],
    as_json: Json = False,
) -> None:
    """FLOPs (multiply-adds) and parameters of one arch.

    Example: mobilenas arch cost macro id_e3k3_e6k5_id_e3k3_e3k3_e6k5_id
    """
    from mobilenas.cost import CostModel
    from mobilenas.space import load_space
    from mobilenas.units import format_size

    loaded = load_space(space)
    cost, parsed = CostModel(loaded), loaded.parse(arch)
    values: dict[str, Any] = {"flops": cost.flops(parsed), "params": cost.params(parsed)}
    if as_json:
        _print_json(values | {"latency_ms": {}})
        return
    for name, value in values.items():
        print(f"{name:7} {format_size(value)}")


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


@app.command("supernet-train")
def supernet_train(
    context: typer.Context,
    space: Annotated[str, typer.Option(help="Shipped space or YAML file, with overrides.")] = "s1",
    data: Annotated[
        str,
        typer.Option(
            help="Folder of class folders, parquet files, cifar10:DIR, cifar100:DIR, or digits "
            "(built in)."
        ),
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

    Example: mobilenas supernet-train --space s1:width=0.25 --data digits --config quick
    """
    from mobilenas.config import load_supernet_config
    from mobilenas.pipeline import run_supernet
    from mobilenas.report.text import table
    from mobilenas.space import load_space
    from mobilenas.train.run import create_run, open_run

    given = {"sampler": sampler, "bn": bn, "passes": passes}
    flags = [f"{key}={value}" for key, value in given.items() if value is not None]
    chosen = load_supernet_config(config, (settings or []) + flags)
    if resume:
        run = open_run(out)
        config_given = flags or settings or _is_given(context, "config")
        run.check_unchanged(
            space=load_space(space) if _is_given(context, "space") else None,
            data=data if _is_given(context, "data") else None,
            seed=seed if _is_given(context, "seed") else None,
            config=chosen if config_given else None,
        )
    else:
        run = create_run(out, load_space(space), data, seed, chosen)
    rows = run_supernet(run)
    if as_json:
        _print_json({"run": str(out), "validation": rows})
        return
    columns = {
        "name": "arch",
        "flops": "FLOPs",
        "accuracy_inherited_bn": "accuracy",
        "accuracy_recalibrated": "recalibrated",
    }
    print(table(rows, columns))
    print(f"supernet in {out}; next: mobilenas evolve --supernet {out} --flops <budget>")


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option(help="Folder for all runs.")] = Path("runs/quickstart"),
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """The whole job, small, on the built-in digits: supernet, search, verified ONNX.

    Takes a few minutes; run it again after a kill and it continues.

    Example: mobilenas quickstart
    """
    from mobilenas.pipeline import run_quickstart
    from mobilenas.report.text import describe_export, front_table

    result, report = run_quickstart(out, seed)
    front = [evaluation.row() for evaluation in result.front]
    if as_json:
        _print_json({"run": str(out), "front": front, "export": report.to_dict()})
        return
    print(front_table(front))
    print(_selected_on(out / "evolve"))
    print(f"\npicture of the front: {out / 'evolve' / 'front.png'}")
    print("ONNX, the most accurate of them:")
    print(describe_export(report.to_dict()))
    print(
        "\nnext, with your own images and budget:\n"
        "  mobilenas space list\n"
        "  mobilenas supernet-train --space s1 --data DIR --out runs/supernet\n"
        "  mobilenas evolve --supernet runs/supernet --flops 500M --out runs/evolve\n"
        "  mobilenas export --onnx --run runs/evolve"
    )


def _show_front(result: Any, out: Path, as_json: bool) -> None:
    from mobilenas.report.text import front_table

    front = [evaluation.row() for evaluation in result.front]
    if as_json:
        _print_json({"run": str(out), "evaluations": len(result.evaluations), "front": front})
        return
    print(front_table(front))
    print(_selected_on(out))
    print(f"picture: {out / 'front.png'}; next: mobilenas export --onnx --run {out}")


def _selected_on(search: Path) -> str:
    from mobilenas.files import read_json

    count = read_json(search / "front.json")["settings"]["evaluator"]["validation_images"]
    return f"accuracy on {count} validation images, those that the search selected on"


def parse_limits(flops: str | None, params: str | None) -> dict[str, int]:
    """The limits that were given, by cost name."""
    from mobilenas.units import parse_size

    given = {"flops": flops, "params": params}
    return {name: parse_size(text) for name, text in given.items() if text is not None}


@app.command()
def evolve(
    context: typer.Context,
    flops: Annotated[str | None, typer.Option(help="Largest multiply-adds: 500M, 0.5G.")] = None,
    params: Annotated[str | None, typer.Option(help="Largest number of parameters: 5M.")] = None,
    supernet: Annotated[Path, typer.Option(help="Run folder of supernet-train.")] = Path(
        "runs/supernet"
    ),
    objectives: Annotated[
        str, typer.Option(help="accuracy and at least one cost, comma separated.")
    ] = "accuracy,flops",
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

    Example: mobilenas evolve --flops 500M
    """
    from mobilenas.files import read_json

    chosen: dict[str, Any] = {
        "limits": parse_limits(flops, params),
        "objectives": objectives.split(","),
        "population": population,
        "generations": generations,
        "seed": seed,
    }
    if resume and (out / "search.json").exists():
        stored = read_json(out / "search.json", *chosen, "evaluator")
        kept = {name for name in chosen if name != "limits" and not _is_given(context, name)}
        if not chosen["limits"]:
            kept.add("limits")
        chosen |= {name: stored[name] for name in kept}
        if not _is_given(context, "supernet"):
            supernet = Path(stored["evaluator"]["supernet"])
    chosen["objectives"] = tuple(chosen["objectives"])

    from mobilenas.pipeline import run_evolve

    result = run_evolve(supernet, out, resume=resume, **chosen)
    _show_front(result, out, as_json)


@app.command()
def export(
    onnx: Annotated[bool, typer.Option("--onnx", help="Write ONNX, the format there is.")] = False,
    run: Annotated[Path, typer.Option(help="Run folder of evolve.")] = Path("runs/evolve"),
    arch: Annotated[
        str | None,
        typer.Option(help="Arch of the space, by its text form; else --pick chooses one."),
    ] = None,
    pick: Annotated[
        str, typer.Option(help="best (accuracy), knee (trade-off) or cheapest of the front.")
    ] = "best",
    out: Annotated[
        Path | None, typer.Option(help="File to write; RUN/<arch>.onnx by default.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Export a searched network with its inherited weights; verified, or nothing is written.

    Example: mobilenas export --onnx --pick knee
    """
    if not onnx:
        raise BadInput("choose a format: --onnx")
    from mobilenas.pipeline import run_export

    report = run_export(run, arch=arch, pick=pick, out=out).to_dict()
    if as_json:
        _print_json(report)
    else:
        from mobilenas.report.text import describe_export

        print(describe_export(report))
