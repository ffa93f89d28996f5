"""The command line: parses, calls one function, prints. Heavy imports live inside commands."""

import errno
import inspect
import io
import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mobilenas import __version__
from mobilenas.base.errors import (
    BadInput,
    DevicesFailed,
    Diverged,
    InfeasibleBudget,
    NotTracked,
    ProcessesDiffer,
    ProcessLost,
    VerificationFailed,
    WorkFailed,
    one_line,
)
from mobilenas.base.process import (
    closed_when_told_to_end,
    end_at_once,
    is_one_of_several,
    tune_process,
)
from mobilenas.cli import detect, latency, networks, spaces
from mobilenas.cli.bench import bench
from mobilenas.cli.doctor import doctor
from mobilenas.cli.evolve import evolve
from mobilenas.cli.export import export
from mobilenas.cli.quickstart import quickstart
from mobilenas.cli.rank import rank
from mobilenas.cli.report import report
from mobilenas.cli.search import search
from mobilenas.cli.supernet_train import supernet_train
from mobilenas.cli.sweep import sweep
from mobilenas.cli.track import tracked
from mobilenas.cli.train import train
from mobilenas.cli.truth import truth

app = typer.Typer(
    name="mobilenas",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Find convolutional networks for a device: supernet, search under a budget, ONNX.\n\n"
    "`mobilenas quickstart` does all of it on built-in images in a few minutes. `COMMAND --help` "
    "has examples.\n\n"
    "FLOPs are multiply-adds of convolution and linear layers for one image. Exit codes: 0 done, "
    "1 failed, 2 bad input, 3 no network meets the budget.",
)
# In the order of the work.
START, FIND, MEASURE, DEPLOY = "To start", "Find a network", "Measure", "Use a network"
app.command(rich_help_panel=START)(quickstart)
app.command(rich_help_panel=START)(doctor)
app.add_typer(spaces.space_app, name="space", rich_help_panel=START)
app.add_typer(spaces.arch_app, name="arch", rich_help_panel=START)
app.command("supernet-train", rich_help_panel=FIND)(tracked(supernet_train))
app.command(rich_help_panel=FIND)(tracked(evolve))
app.command(rich_help_panel=FIND)(tracked(sweep))
app.command(rich_help_panel=FIND)(tracked(search))
app.command(rich_help_panel=FIND)(tracked(train))
app.command(rich_help_panel=MEASURE)(tracked(truth))
app.command(rich_help_panel=MEASURE)(tracked(rank))
app.add_typer(latency.latency_app, name="latency", rich_help_panel=MEASURE)
app.command(rich_help_panel=MEASURE)(bench)
app.command(rich_help_panel=MEASURE)(report)
app.command(rich_help_panel=DEPLOY)(export)
app.command("eval", rich_help_panel=DEPLOY)(networks.evaluate)
app.add_typer(detect.detect_app, name="detect", rich_help_panel=DEPLOY)
app.command(rich_help_panel=DEPLOY)(networks.convert)


def _join_lines(commands: typer.Typer) -> None:
    """Put each paragraph of the help on one line: a terminal breaks it at its own width, and rich
    would keep our breaks beside that.
    """
    for command in commands.registered_commands:
        text = inspect.cleandoc(command.help or getattr(command.callback, "__doc__", None) or "")
        command.help = "\n\n".join(part.replace("\n", " ") for part in text.split("\n\n"))
    for group in commands.registered_groups:
        if group.typer_instance:
            _join_lines(group.typer_instance)


_join_lines(app)

# Of a name that no file can have: it is too long, or goes in a circle.
_NO_PATH = (errno.ENAMETOOLONG, errno.ELOOP)
# What typer makes of an interrupt, and `closed_when_told_to_end` of SIGTERM, without a word.
_STOPPED = {130: "interrupted", 143: "stopped by SIGTERM"}


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
        _fail(_of_path(error), 2)
    except OSError as error:
        _fail(error, 2 if error.errno in _NO_PATH else 1)
    except (DevicesFailed, Diverged, NotTracked, ProcessesDiffer, ProcessLost, WorkFailed) as error:
        _fail(error, 1)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which may not be imported
            raise
        _fail(f"{one_line(error)}; a smaller batch_size needs less, in a run of its own", 1)
    except SystemExit as stop:
        if not isinstance(stop.code, int) or stop.code not in _STOPPED:
            raise
        _fail(f"{_STOPPED[stop.code]}{_how_to_continue(sys.argv[1:])}", stop.code)


def _how_to_continue(words: list[str]) -> str:
    """What continues the command that these words call, where something does."""
    command: Any = typer.main.get_command(app)
    for word in words:
        command = getattr(command, "commands", {}).get(word, command)
    if command.name == "quickstart":
        return "; it continues when it is run again"
    resumes = any(option.name == "resume" for option in command.params)
    return "; --resume continues the run" if resumes else ""


def _of_path(error: OSError) -> str:
    """What is wrong with the path of an error, in words rather than by its number."""
    if not isinstance(error.filename, str):
        return str(error)
    path = Path(error.filename)
    if isinstance(error, (FileExistsError, NotADirectoryError)) and not path.is_dir():
        above = (folder for folder in path.parents if folder.exists() and not folder.is_dir())
        return f"cannot use {path}: {next(above, path)} is not a folder"
    return f"cannot use {path}: {(error.strerror or 'no access').lower()}"


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
