"""What all benchmarks have in common: their command line, their tables, fresh processes in turn.

A benchmark is a script with one or more studies: functions whose parameters are the options of its
command line and which yield tables. `main` prints them and, below, what they were measured on.
"""

import functools
import importlib
import inspect
import json
import logging
import os
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from scipy import stats

from mobilenas.base.errors import BadInput, InfeasibleBudget
from mobilenas.base.process import tune_process
from mobilenas.latency.host import processor, today

# torch is imported by nobody here: what tunes a process comes before it.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or its profiler says that there is no GPU

# Variables that would tune a process which is to be as it is by default.
_TUNING = ("OMP_WAIT_POLICY", "GOMP_", "KMP_", "MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")

# Options that must be given; a parameter without a default would be an argument.
PathOption = Annotated[Path, typer.Option()]
TextOption = Annotated[str, typer.Option()]
DataRoot = Annotated[
    Path, typer.Option(envvar="MOBILENAS_DATA", help="Folder of the published data sets.")
]
Data = Annotated[str, typer.Option(help="Images, as `mobilenas train` takes them.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replace a key.")]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Table:
    """Rows of cells by column; a cell that is None or missing is empty. formats: of some columns.

    title: what the table shows.
    """

    rows: list[dict[str, Any]]
    formats: dict[str, str] = field(default_factory=dict)
    title: str = ""

    def markdown(self) -> str:
        """The table, its title above."""
        columns = list(dict.fromkeys(column for row in self.rows for column in row))
        lines = [columns, ["---"] * len(columns)]
        for row in self.rows:
            cells = ((row.get(column), self.formats.get(column, "")) for column in columns)
            lines.append(["" if cell is None else format(cell, how) for cell, how in cells])
        text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return f"{self.title}\n\n{text}" if self.title else text


Study = Callable[..., Iterator[Table]]


def main(*studies: Study) -> None:
    """Run the command line of a script: its study, or the one that its first word names."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    tune_process()
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    for study in studies:
        app.command()(_printed(study))
    try:
        app()
    except (BadInput, InfeasibleBudget) as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


def _printed(study: Study) -> Callable[..., None]:
    @functools.wraps(study)  # typer reads its parameters
    def command(**parameters: Any) -> None:
        for table in study(**parameters):
            print(table.markdown() + "\n", flush=True)
        print(about())

    return command


def about() -> str:
    """What the figures of this process were measured on, and by which command."""
    import torch

    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "onnxruntime"))
    machine = f"{processor()}, {os.cpu_count()} cores, threads: {torch.get_num_threads()}"
    return f"{today()}, {machine}, {packages}: {shlex.join(['python', *sys.argv])}"


@dataclass(frozen=True)
class Case:
    """A function of a script, called in a process of its own: figures by what they are.

    arguments: plain data. tuned: whether the process has `tune_process`, before torch is imported,
    or the default environment.
    """

    name: str
    function: Callable[..., dict[str, float]]
    arguments: dict[str, Any] = field(default_factory=dict)
    tuned: bool = True

    def measure(self) -> dict[str, float]:
        """The figures of a fresh process."""
        call = [inspect.getfile(self.function), self.function.__name__, self.arguments, self.tuned]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(_TUNING)}
        command = [sys.executable, __file__, json.dumps(call)]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
        figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return figures


def compare(cases: Sequence[Case], rounds: int) -> Table:
    """Each round runs every case, one after the other, in a fresh process.

    A row a figure and case. ratio: of the medians, to the first case.
    """
    found: dict[str, list[dict[str, float]]] = {case.name: [] for case in cases}
    for number in range(rounds):
        for case in cases:
            found[case.name].append(case.measure())
            log.info("round %d, %s: %s", number + 1, case.name, found[case.name][-1])
    rows = []
    for figure in found[cases[0].name][0]:
        values = {name: [figures[figure] for figures in several] for name, several in found.items()}
        base = statistics.median(values[cases[0].name])
        for name, each in values.items():
            row = {"figure": figure, "case": name, "median (min to max)": median_range(each)}
            rows.append(row | {"ratio": statistics.median(each) / base, "n": rounds})
    return Table(rows, {"ratio": ".2f"})


def median_range(values: Sequence[float]) -> str:
    """Median and extremes, three digits or more."""
    each = (statistics.median(values), min(values), max(values))
    digits = max(0, 3 - len(str(int(each[0]))))
    return "{} ({} to {})".format(*(f"{value:.{digits}f}" for value in each))


def mean_sd(values: Sequence[float], digits: int = 2) -> str:
    """Mean and, of several values, standard deviation."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def mean_interval(points: Sequence[float]) -> str:
    """Mean and its 95 % interval of Student's t."""
    mean = statistics.fmean(points)
    half = stats.t.ppf(0.975, len(points) - 1) * stats.sem(points)
    low, high = mean - half, mean + half
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def numbers(text: str) -> tuple[int, ...]:
    """Whole numbers from "1,2,4"."""
    try:
        return tuple(map(int, text.split(",")))
    except ValueError:
        raise BadInput(f"{text!r}: it must be whole numbers such as 1,2,4") from None


if __name__ == "__main__":  # the process of a case
    file, name, arguments, tuned = json.loads(sys.argv[1])
    if tuned:
        tune_process()
    sys.path.insert(0, str(Path(file).parent))
    script = importlib.import_module(Path(file).stem)
    print(json.dumps(getattr(script, name)(**arguments)))
