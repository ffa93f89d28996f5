"""What the commands share: options, and how a result is printed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mobilenas.base.errors import WorkFailed

if TYPE_CHECKING:
    from mobilenas.cost.budget import Budget
    from mobilenas.workers import WorkersAsked

DATA_HELP = (
    "Folder of class folders, parquet or WebDataset files, cifar10:DIR, cifar100:DIR, or digits "
    "(built in)."
)
TRAINING_PRESETS = (
    "Recipe: cifar10-quick or digits (minutes on a CPU), cifar10, finetune, imagenet-modern, "
    "imagenet-mnasnet, or a YAML file."
)
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of everything random.")]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Continue the run in --out; other flags may be left out."),
]
ChosenSpace = Annotated[
    str | None, typer.Option("--space", help="Shipped space or YAML file, with overrides.")
]
TrainingData = Annotated[
    str | None,
    typer.Option("--data", help=f"{DATA_HELP} By default that of the supernet, else digits."),
]
Inherit = Annotated[
    Path | None,
    typer.Option(help="Run folder of supernet-train: start from the weights it has."),
]
MovedData = Annotated[
    str | None, typer.Option("--data", help="Where the images of the run are now, if they moved.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Replace a key of the preset: lr=0.05."),
]
WORKERS_TEXT = "N|ray|ray://HOST:PORT"
Workers = Annotated[
    str,
    typer.Option(
        "--workers",
        metavar=WORKERS_TEXT,
        help="Who measures archs: N processes of this machine, a Ray cluster that is started on "
        "it (ray), or one that is there. OMP_NUM_THREADS is of each.",
    ),
]
WorkerTimeout = Annotated[
    float | None,
    typer.Option(
        "--worker-timeout",
        help="Seconds that a worker may take for a group of archs; then it is ended, and another "
        "one does the group again.",
    ),
]
SpaceName = Annotated[
    str,
    typer.Argument(
        metavar="SPACE",
        help="A shipped space or a YAML file, with overrides: s1:width=0.25,resolution=32.",
    ),
]
Flops = Annotated[str | None, typer.Option(help="Largest multiply-adds: 500M, 0.5G.")]
Params = Annotated[str | None, typer.Option(help="Largest number of parameters: 5M.")]
Memory = Annotated[
    str | None,
    typer.Option(help="Largest peak of activation memory in bytes, for one float32 image: 2M."),
]
Latency = Annotated[
    list[str] | None,
    typer.Option(
        metavar="MS@DEVICE",
        help="Largest latency on a device: 20ms, 1.5s or 800us @ the name of a device or of a "
        "latency table, or a JSON file; @DEVICE alone sets no limit. May be given several times.",
    ),
]


def parse_workers(text: str, timeout: float | None = None) -> "WorkersAsked":
    """What was given of the options Workers and WorkerTimeout. Raises BadInput."""
    from mobilenas.workers import WorkersAsked

    asked = WorkersAsked.parse(text, timeout)
    asked.check()
    return asked


def check_all_done(result: Mapping[str, Any]) -> None:
    """Raise WorkFailed where archs could not be measured or trained, with the exit code 1 of a
    command that has done the rest.
    """
    missing = []
    if left_out := result.get("left_out"):
        ends = ", ".join(f"{arch} ({why})" for arch, why in left_out.items())
        missing.append(f"{len(left_out)} of the archs could not be measured: {ends}")
    if failed := result.get("failed"):
        missing.append(f"{len(failed)} trainings failed twice: {', '.join(failed)}")
    if missing:
        raise WorkFailed("; ".join(missing))


def print_json(value: object) -> None:
    """The one JSON object of a command, on stdout."""
    print(json.dumps(value))


def is_given(context: typer.Context, name: str) -> bool:
    """Whether the user gave the option, rather than its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def parse_budget(
    flops: str | None, params: str | None, memory: str | None, latency: list[str] | None
) -> "Budget":
    """What was given of the options Flops, Params, Memory and Latency."""
    from mobilenas.base.units import parse_size
    from mobilenas.cost.budget import Budget, LatencyLimit

    memory = memory and memory.removesuffix("B")  # as it is printed
    given = {"flops": flops, "params": params, "memory": memory}
    return Budget(
        {name: parse_size(text) for name, text in given.items() if text is not None},
        tuple(LatencyLimit.parse(text) for text in latency or []),
    )
