"""The lock of a run folder, with real processes: one is inside at a time, whatever ends the other.

A process is inside until it is told to go on by its standard input.
"""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mobilenas.base.errors import BadInput
from mobilenas.runs import lock
from mobilenas.runs.lock import held

HOST = socket.gethostname()
INSIDE = """
import os, sys
from pathlib import Path
from mobilenas.base.errors import BadInput
from mobilenas.runs.lock import held
try:
    with held(Path(sys.argv[1]), "evolve", is_file=len(sys.argv) > 2):
        if os.fork() == 0:  # a data worker, which outlives a process that is killed
            sys.stdin.readline()
            os._exit(0)
        print("inside", flush=True)
        sys.stdin.readline()
except BadInput as error:
    print(error, flush=True)
"""


class Other:
    """Another process that takes a lock. said: its first line, `inside` or why not."""

    def __init__(self, path: Path, *arguments: str) -> None:
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen([sys.executable, "-c", INSIDE, path, *arguments], **pipes)
        self.said = self.line()

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go_on(self) -> None:
        self.process.communicate("\n", timeout=30)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(timeout=30)


def refusal(path: Path, *, is_file: bool = False) -> str:
    with pytest.raises(BadInput) as refused, held(path, "train", is_file=is_file):
        pass
    assert "\n" not in str(refused.value)
    return str(refused.value)


def leave(path: Path, **changes: Any) -> None:
    """A lock that a process which has ended left behind."""
    holder = {"process": 7, "host": HOST, "boot": None, "command": "rank"} | changes
    path.mkdir(exist_ok=True)
    (path / ".lock").write_text(json.dumps(holder))


@pytest.mark.parametrize("is_file", [False, True])
def test_a_second_process_is_told_who_is_at_work(is_file: bool, tmp_path: Path) -> None:
    path = tmp_path / "run.v2"
    other = Other(path, *["--file"] * is_file)
    assert other.said == "inside"
    words = f"{path} is in use by process {other.process.pid} on {HOST} (mobilenas evolve)"
    before = sorted(tmp_path.rglob("*"))
    assert refusal(path, is_file=is_file) == words
    assert sorted(tmp_path.rglob("*")) == before
    other.go_on()
    assert list(tmp_path.iterdir()) == []
    with held(path, "train", is_file=is_file):
        pass


def test_a_folder_that_nothing_was_put_into_is_taken_away(tmp_path: Path) -> None:
    for name in ("deep/run", "deep/other"):
        with held(tmp_path / name, "train"):
            assert (tmp_path / name).is_dir()
            if name == "deep/other":
                (tmp_path / name / "run.json").touch()
    assert sorted(tmp_path.rglob("*.*")) == [tmp_path / "deep" / "other" / "run.json"]
    assert not (tmp_path / "deep" / "run").exists()


def test_the_lock_of_a_killed_process_is_taken_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With what it had half written; a data worker of it that lives on does not matter."""
    run = tmp_path / "run"
    other = Other(run)
    (run / ".checkpoint.pt.0123abcd.tmp").write_text("half")
    assert other.said == "inside"
    other.kill()
    assert (run / ".lock").exists()
    caplog.set_level("INFO")
    with held(run, "train"):
        assert [path.name for path in run.iterdir()] == [".lock"]
    (message,) = caplog.messages
    assert f"was left by process {other.process.pid}, which has ended" in message


def test_a_number_of_a_process_that_was_given_anew_does_not_matter(tmp_path: Path) -> None:
    leave(tmp_path / "run", process=os.getppid())  # which lives, and never had this lock
    with held(tmp_path / "run", "train"):
        pass


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"process": 7}'])
def test_a_process_killed_before_it_wrote_who_it_is(content: str, tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text(content)
    with held(tmp_path, "train"):
        assert json.loads((tmp_path / ".lock").read_text())["process"] == os.getpid()


def test_what_another_machine_left_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    leave(run, host="elsewhere", boot="other")
    before = (run / ".lock").read_bytes()
    assert refusal(run) == (
        f"{run} is in use by process 7 on elsewhere (mobilenas rank), which cannot be asked from "
        f"{HOST}: if it has ended, remove {run / '.lock'}"
    )
    assert (run / ".lock").read_bytes() == before
    (run / ".lock").unlink()
    with held(run, "train"):
        pass


@pytest.mark.skipif(not lock._BOOT.exists(), reason="the boot id is of Linux")
def test_another_container_of_this_machine_is_not_another_machine(tmp_path: Path) -> None:
    leave(tmp_path / "run", host="container", boot=lock._BOOT.read_text().strip())
    with held(tmp_path / "run", "train"):
        pass


def test_where_there_are_no_locks_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.lockf", none)
    with held(tmp_path / "run", "train"):
        pass
    (message,) = caplog.messages
    assert "there are no locks here" in message


def start_at_once(folder: str, gate: Any, results: Any) -> None:
    inside = refused = 0
    gate.wait()
    for _ in range(100):
        try:
            with held(Path(folder) / "run", "evolve"):
                os.close(os.open(f"{folder}/inside", os.O_CREAT | os.O_EXCL))
                Path(folder, "inside").unlink()
                inside += 1
        except BadInput:
            refused += 1
    results.put((inside, refused))


def test_of_processes_that_start_at_the_same_instant_one_is_inside(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    gate, results = context.Barrier(3), context.Queue()
    arguments = (str(tmp_path), gate, results)
    processes = [context.Process(target=start_at_once, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    counts = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
        assert process.exitcode == 0  # nobody met another one inside
    assert all(inside + refused == 100 for inside, refused in counts)
    assert sum(inside for inside, _ in counts) > 0
