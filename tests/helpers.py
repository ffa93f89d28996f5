"""Running the command line: as a process of its own, or in this one (`call` of cli/conftest.py)."""

import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context, set_start_method
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from mobilenas import cli

ROOT = Path(__file__).resolve().parent.parent

# The smallest training that is still one: a space of six blocks, 200 images, 60 to choose by.
TINY_SPACE = "digits:resolution=16"
TINY = [
    "--preset=quick",
    "--set=batch_size=16",
    "--set=limit=200",
    "--set=validate_images=60",
    "--set=calibrate_images=32",
    "--set=checkpoint_seconds=0",
    "--set=device=cpu",
]

# The smallest training of one network: 20 steps on 160 images, validated after every tenth.
TINY_ARCH = "e3k3_e3k5_e3k3_e3k37_e3k35_e3k5"
ALONE = [
    "--preset=digits",
    "--set=batch_size=16",
    "--set=limit=160",
    "--set=validate_images=60",
    "--set=epochs=2",
    "--set=validate_every=1",
    "--set=workers=0",
    "--set=device=cpu",
]

# An arch of the space `macro`.
MACRO_ARCH = "id_e3k3_e6k5_id_e3k3_e3k3_e6k5_id"

# One thread: sums over images are then in one order, whatever the number of cores.
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def command(*arguments: object) -> list[str]:
    """What starts `mobilenas arguments...` with the Python of the tests."""
    return [sys.executable, "-m", "mobilenas", *map(str, arguments)]


def torchrun(*arguments: object) -> list[str]:
    """What starts `mobilenas arguments...` in two processes that train together."""
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return [sys.executable, *start, "-m", "mobilenas", *map(str, arguments)]


# A process that has imported what takes seconds; others are forked from it.
FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(
    ["mobilenas.stages.search", "timm", "torch._dynamo", "sklearn.datasets"]
)


def forked(
    *arguments: object,
    out: str = os.devnull,
    err: str = os.devnull,
    patch: Callable[[], None] | None = None,
) -> BaseProcess:
    """`mobilenas arguments...`, started, with files for what it prints. patch: what is done first
    in that process.
    """
    given = (list(map(str, arguments)), patch, out, err)
    process = FORKS.Process(target=_run_into, args=given)
    process.start()
    return process


def _run_into(arguments: list[str], patch: Callable[[], None] | None, *files: str) -> None:
    for stream, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), stream)
    os.environ["COLUMNS"] = "200"
    set_start_method(None, force=True)  # its own workers start as anywhere
    torch.set_num_threads(1)  # as in ENVIRONMENT
    sys.argv = ["mobilenas", *arguments]
    if patch is not None:
        patch()
    cli.main()


def mobilenas(*arguments: object, timeout: float = 120) -> "Outcome":
    """Run a command to its end in a process of its own, whatever its exit code."""
    with TemporaryDirectory() as folder:
        files = Path(folder, "out"), Path(folder, "err")
        process = forked(*arguments, out=str(files[0]), err=str(files[1]))
        process.join(timeout)
        process.kill()
        process.join()
        assert process.exitcode is not None
        return Outcome(process.exitcode, *(file.read_text() for file in files))


def mobilenas_json(*arguments: object) -> Any:
    """The object that a command prints with --json; it has to succeed and print nothing else."""
    done = mobilenas(*arguments, "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def is_written_last(path: Path) -> bool:
    """Whether no other file of its folder is newer: a kill after it leaves nothing undone."""
    written = [file.stat().st_mtime_ns for file in path.parent.rglob("*") if file.is_file()]
    return path.stat().st_mtime_ns == max(written)


def untimed(folder: Path) -> dict[str, bytes]:
    """The same without the files of TensorBoard, which have times in them, and without the command
    line and versions of run.json.
    """
    files = contents(folder).items()
    return {name: unsaid(name, x) for name, x in files if not name.startswith("tensorboard/")}


def unsaid(name: str, content: bytes) -> bytes:
    """A file of a run, if it is a run.json without what the run was started with."""
    if not name.endswith("run.json"):
        return content
    return json.dumps({k: v for k, v in json.loads(content).items() if k != "provenance"}).encode()


def edit(path: Path, **changes: Any) -> None:
    """Replace keys of a JSON file; ... takes one out."""
    value = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in value.items() if v is not ...}))


def edit_settings(run: Path, **changes: Any) -> None:
    """The same with the settings in the run.json of a folder."""
    settings = json.loads((run / "run.json").read_text())["settings"] | changes
    edit(run / "run.json", settings={k: v for k, v in settings.items() if v is not ...})


@dataclass(frozen=True)
class Outcome:
    """How a command ended, and what it left on the two streams."""

    code: int
    out: str
    err: str


Call = Callable[..., Outcome]


@dataclass(frozen=True)
class Trained:
    """A network trained alone, and what the command printed."""

    folder: Path
    result: dict[str, Any]


def check_refused(outcome: Outcome, *words: str, code: int = 2) -> None:
    """One line on stderr that says what and where, nothing on stdout."""
    assert outcome.code == code, outcome
    assert outcome.out == ""
    *found, line = outcome.err.splitlines()  # where data were read, a line says what they are
    assert all(re.search(r": [\d,]+ (training )?images?", text) for text in found), outcome.err
    assert line.startswith("mobilenas: ")
    assert [word for word in words if word not in line] == [], outcome.err


@dataclass(frozen=True)
class Job:
    """A small supernet, a search through it and an export, with what each command printed."""

    folder: Path
    trained: dict[str, Any]
    searched: dict[str, Any]
    exported: dict[str, Any]

    @property
    def supernet(self) -> Path:
        return self.folder / "supernet"

    @property
    def search(self) -> Path:
        return self.folder / "evolve"


def processes_of(folder: Path) -> list[str]:
    """The command lines that name a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:  # it has ended
            continue
        if str(folder).encode() in line:
            found.append(line.decode().replace("\0", " "))
    return found
