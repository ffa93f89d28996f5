"""The command line: parses, calls one function, prints. Heavy imports live inside commands."""

import errno
import io
import logging
import sys
from typing import Annotated

import typer

from mobilenas import __version__
from mobilenas.base.errors import (
    BadInput,
    Diverged,
    InfeasibleBudget,
    ProcessesDiffer,
    ProcessLost,
    TrainingsFailed,
    VerificationFailed,
)
from mobilenas.base.process import (
    closed_when_told_to_end,
    end_at_once,
    is_one_of_several,
    tune_process,
)
from mobilenas.cli import detect, latency, networks, spaces
from mobilenas.cli.bench import bench
from mobilenas.cli.evolve import evolve
from mobilenas.cli.export import export
from mobilenas.cli.quickstart import quickstart
from mobilenas.cli.rank import rank
from mobilenas.cli.report import report
from mobilenas.cli.search import search
from mobilenas.cli.supernet_train import supernet_train
from mobilenas.cli.train import train
from mobilenas.cli.truth import truth

app = typer.Typer(
    name="mobilenas",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Find convolutional networks for a device: supernet, search under a budget, ONNX.\n\n"
    "FLOPs are multiply-adds of convolution and linear layers for one image.",
)
app.add_typer(spaces.space_app, name="space")
app.add_typer(spaces.arch_app, name="arch")
app.add_typer(latency.latency_app, name="latency")
app.add_typer(detect.detect_app, name="detect")
app.command("supernet-train")(supernet_train)
app.command()(quickstart)
app.command()(truth)
app.command()(rank)
app.command()(evolve)
app.command()(search)
app.command()(train)
app.command()(export)
app.command("eval")(networks.evaluate)
app.command()(networks.convert)
app.command()(bench)
app.command()(report)


# Of a name that no file can have: it is too long, or goes in a circle.
_NO_PATH = (errno.ENAMETOOLONG, errno.ELOOP)
# What typer makes of an interrupt, and `closed_when_told_to_end` of SIGTERM, without a word.
_STOPPED = {130: "interrupted", 143: "told to end"}


def main() -> None:
    """Run the command line; errors of the user are one line on stderr and an exit code."""
    try:
        _run()
    except SystemExit as stop:
        if is_one_of_several():
            end_at_once(stop.code)
        raise


def _run() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for terminals that know few letters
    tune_process()
    try:
        with closed_when_told_to_end():
            app()
    except BadInput as error:
        _fail(error, 2)
    except InfeasibleBudget as error:
        _fail(error, 3)
    except VerificationFailed as error:
        _fail(f"not exported: {error}", 1)
    except (FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        _fail(error, 2)
    except OSError as error:
        _fail(error, 2 if error.errno in _NO_PATH else 1)
    except (Diverged, ProcessesDiffer, ProcessLost, TrainingsFailed) as error:
        _fail(error, 1)
    except SystemExit as stop:
        if not isinstance(stop.code, int) or stop.code not in _STOPPED:
            raise
        how = "a run is continued with --resume, a quickstart by itself"
        _fail(f"{_STOPPED[stop.code]}; {how}", stop.code)


def _fail(error: object, code: int) -> None:
    print(f"mobilenas: {error}", file=sys.stderr)
    raise SystemExit(code)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit
