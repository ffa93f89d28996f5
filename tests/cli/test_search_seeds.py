"""`search --seeds`: the same searches as one at a time, several at once, and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import Call, check_refused
from tables import made_up_table

from mobilenas.space import load_space
from mobilenas.stages.finish import Finish

SMALL = [
    "search",
    "--strategy=gdas",
    "--space=macro:width=0.25,resolution=8",
    "--preset=cpu",
    "--set=batch_size=16",
    "--set=limit=80",
    "--set=validate_images=80",
    "--set=epochs=1",
    "--set=device=cpu",
]


def test_each_seed_finds_what_a_search_of_its_own_finds(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    alone, out = tmp_path / "alone", tmp_path / "several"
    assert call(*SMALL, "--seed=3", f"--out={alone}").code == 0
    # As after a kill between the two: one is done, the other one was not started.
    first = call(*SMALL, "--seeds=2", f"--out={out}")
    assert first.code == 0, first.err
    log = (out / "seed-2" / "log.jsonl").read_bytes()
    done = call(*SMALL, "--resume", "--seeds=2,3", "--workers=2", f"--out={out}", "--json")
    assert done.code == 0, done.err
    assert [row["seed"] for row in json.loads(done.out)["seeds"]] == [2, 3]
    assert (out / "seed-2" / "log.jsonl").read_bytes() == log
    for name in ("front.json", "log.jsonl", "splits.json"):
        assert (out / "seed-3" / name).read_bytes() == (alone / name).read_bytes()
    other = call("search", "--resume", "--seeds=2,4", f"--out={out}")  # seed 4 by default flags
    check_refused(other, "seed-4 would be another search than", "give the flags that it was")
    assert not (out / "seed-4").exists()
    (out / "seed-4").mkdir()  # killed before its run.json was written
    (out / "seed-4" / "splits.json").write_text("{}")
    other = call("search", "--resume", "--seeds=2,4", f"--out={out}")
    check_refused(other, "seed-4 would be another search than", "give the flags that it was")
    assert not (out / "seed-4").exists()
    again = call("search", "--resume", "--seeds=2,3", f"--out={out}")
    assert again.code == 0 and len(again.out.splitlines()) == 4, again.err


def test_a_search_that_fails_is_named_and_the_others_are_done(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, real = tmp_path / "several", Finish.start

    def start(how: Finish, path: Path) -> "subprocess.Popen[bytes]":
        if path.name == "seed-3":
            return real(how, path)
        with (path / "output.txt").open("ab") as output:
            words = [sys.executable, "-c", "raise MemoryError('none is left')"]
            return subprocess.Popen(words, stderr=output)

    monkeypatch.setattr(Finish, "start", start)
    done = call(*SMALL, "--seeds=2,3", f"--out={out}", "--json")
    assert done.code == 1
    end = "searches failed: seed-2 (MemoryError: none is left); --resume tries again"
    assert done.err.splitlines()[-1] == f"mobilenas: {end}"
    printed = json.loads(done.out)
    assert printed["failed"] == {"seed-2": "MemoryError: none is left"}
    assert [row["seed"] for row in printed["seeds"]] == [3]


def test_a_latency_table_that_moved_is_found_by_all(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(how: Finish, path: Path) -> "subprocess.Popen[bytes]":
        return subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"])

    table = tmp_path / "made-up.json"
    table.write_text(made_up_table(load_space("macro:width=0.25,resolution=8")).model_dump_json())
    flags = ["--seeds=2", f"--out={tmp_path / 'several'}"]
    with monkeypatch.context() as patched:
        patched.setattr(Finish, "start", killed)
        patched.setattr("mobilenas.stages.finish._last_line", lambda path: "killed")
        assert call(*SMALL, *flags, f"--latency=100ms@{table}").code == 1
    (tmp_path / "elsewhere").mkdir()
    moved = table.rename(tmp_path / "elsewhere" / table.name)
    done = call("search", "--resume", *flags, f"--latency=100ms@{moved}")
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--seeds=1,1"], "--seeds 1,1: a seed stands twice"),
        (["--seeds=1,-1"], "--seeds 1,-1: must be whole numbers"),
        (["--seeds=" + 5000 * "1"], "must be whole numbers"),
        (["--seeds=1", "--seed=1"], "give --seed or --seeds"),
        (["--workers=2"], "--workers goes with --seeds"),
        (["--seeds=1", "--workers=0"], "--workers 0: must be a number from 1"),
    ],
)
def test_what_cannot_be(flags: list[str], words: str, tmp_path: Path, call: Call) -> None:
    check_refused(call(*SMALL, *flags, f"--out={tmp_path / 'x'}"), words)
