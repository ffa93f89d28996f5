"""Folders that are files, runs that are put into a run, and places that nothing would be read from:
one line, exit code 2, and all stays as it was.
"""

from pathlib import Path

import pytest
from helpers import TINY, TINY_ARCH, TINY_SPACE, Call, check_refused, contents

TRAIN = ["train", f"--space={TINY_SPACE}", f"--arch={TINY_ARCH}"]
TRUTH = ["--truth=truth.csv"]
BUILD = ["latency", "build", f"--space={TINY_SPACE}", "--device=mine"]
FARM = ["latency", "build", f"--space={TINY_SPACE}", "--devices=farm.yaml"]
CHECK = ["latency", "check", f"--space={TINY_SPACE}", "--devices=farm.yaml"]

FOLDERS = {
    "supernet-train": ["supernet-train", f"--space={TINY_SPACE}", *TINY],
    "train": TRAIN,
    "truth": ["truth", f"--space={TINY_SPACE}"],
    "search": ["search"],
    "seeds": ["search", "--seeds=0,1"],
    "rank": ["rank", *TRUTH],
    "sweep": ["sweep", "--flops=1M"],
    "latency build": BUILD,
    "quickstart": ["quickstart"],
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with one file, and one folder that holds a run."""
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    Path("run").mkdir()
    Path("run/run.json").write_text('{"kind": "train"}')
    return tmp_path


@pytest.mark.parametrize("out", ["file", "file/in/it"])
@pytest.mark.parametrize("name", FOLDERS)
def test_a_run_folder_that_is_a_file(name: str, out: str, here: Path, call: Call) -> None:
    before = contents(here)
    check_refused(call(*FOLDERS[name], f"--out={out}"), "file is not a folder")
    assert contents(here) == before


def test_a_folder_of_tables_that_is_a_file(here: Path, call: Call) -> None:
    before = contents(here)
    check_refused(call(*BUILD, "--tables=file", "--out=new"), "file is not a folder")
    assert contents(here) == before


@pytest.mark.parametrize(
    "command",
    [["search", "--seeds=0,1"], ["search", "--seeds=0,1", "--resume"], ["quickstart"], FARM, CHECK],
    ids=" ".join,
)
def test_a_run_is_no_folder_for_runs(command: list[str], here: Path, call: Call) -> None:
    Path("farm.yaml").write_text("devices: {}\n")
    before = contents(here)
    check_refused(call(*command, "--out=run"), "run is a run itself")
    assert contents(here) == before


@pytest.mark.parametrize("command", [["search"], ["search", "--seeds=0,1"], ["rank", *TRUTH]])
def test_a_data_root_that_nothing_is_read_from(
    command: list[str], here: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(here)
    check_refused(call(*command, "--data-root=data", "--out=new"), "--data-root goes with")
    assert contents(here) == before
    monkeypatch.setenv("MOBILENAS_DATA", "data")  # is of all commands, and asks for nothing
    outcome = call(*command, "--out=file")
    check_refused(outcome, "file is not a folder")


@pytest.mark.parametrize("uri", ["", "http://", "https:/", "nonsense"])
def test_a_tracker_without_an_address(uri: str, here: Path, call: Call) -> None:
    before = contents(here)
    check_refused(call(*TRAIN, "--out=new", f"--track={uri}"), f"'{uri}'", "http://HOST:PORT")
    assert contents(here) == before
