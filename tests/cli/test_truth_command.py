"""The command `truth`: many stand-alone trainings in processes, and how these may end."""

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import (
    ALONE,
    ENVIRONMENT,
    TINY_SPACE,
    Call,
    Job,
    check_refused,
    command,
    contents,
    mobilenas,
    mobilenas_json,
    processes_of,
    unsaid,
)

from mobilenas.search.front import spread_archs
from mobilenas.space import load_space
from mobilenas.stages import trainings
from mobilenas.stages.finish import Finish

TRUTH = ["truth", f"--space={TINY_SPACE}", "-n3", *ALONE, "--seed=3"]
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three trainings, one after the other; tests leave them as they are."""
    folder = tmp_path_factory.mktemp("whole") / "truth"
    done = mobilenas(*TRUTH, "--json", f"--out={folder}", timeout=500)
    assert done.code == 0, done.err
    printed = json.loads(done.out)
    assert (len(printed["archs"]), printed["failed"]) == (3, {})
    return folder


def lasting(folder: Path) -> dict[str, bytes]:
    """What does not tell when or how often it was worked on, nor where."""
    passing = ("timing.json", "output.txt", "checkpoint.pt", ".lock")
    return {
        name: unsaid(name, content)
        for name, content in contents(folder).items()
        if not name.endswith(passing) and "tensorboard" not in name
    }


def read(folder: Path, name: str = "run.json") -> Any:
    return json.loads((folder / name).read_text())


def test_the_file_has_what_plain_trainings_come_to(whole: Path, tmp_path: Path) -> None:
    with (whole / "truth.csv").open() as file:
        rows = list(csv.DictReader(file))
    checksums = ["data_checksum", "space_checksum"]
    assert list(rows[0]) == ["arch", "accuracy", "validation_images", *checksums]
    about = read(whole)
    assert about["settings"]["threads"] == 1
    assert sorted(row["arch"] for row in rows) == sorted(about["facts"]["archs"])
    arch = rows[0]["arch"]
    plain = ("train", f"--space={TINY_SPACE}", f"--arch={arch}", *ALONE, "--seed=3")
    result = mobilenas_json(*plain, f"--out={tmp_path / 'train'}")
    assert lasting(tmp_path / "train") == lasting(whole / "trainings" / arch)
    assert float(rows[0]["accuracy"]) == result["last_accuracy"]
    assert rows[0]["validation_images"] == "60"
    facts = read(tmp_path / "train")["facts"]
    assert (
        int(rows[0]["data_checksum"]) == facts["data_checksum"] == about["facts"]["data_checksum"]
    )


def test_a_ranking_takes_the_file_if_it_is_of_the_images_of_the_supernet(
    whole: Path, job: Job, tmp_path: Path, call: Call
) -> None:
    text = (whole / "truth.csv").read_text()
    asked = ("rank", f"--supernet={job.supernet}", "--no-zero-cost")
    done = call(*asked, f"--truth={whole / 'truth.csv'}", f"--out={tmp_path / 'rank'}")
    assert done.code == 0, done.err
    other = tmp_path / "other.csv"
    other.write_text(text.replace(str(read(whole)["facts"]["data_checksum"]), "7"))
    refused = call(*asked, f"--truth={other}", f"--out={tmp_path / 'rank2'}")
    check_refused(refused, f"{other} line 2: data_checksum 7", str(job.supernet))
    other.write_text(re.sub(r",\d+$", ",7", text, flags=re.MULTILINE))
    refused = call(*asked, f"--truth={other}", f"--out={tmp_path / 'rank3'}")
    check_refused(refused, f"{other} line 2: space_checksum 7")


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks for processes in /proc")
def test_two_at_once_told_to_end_and_resumed_are_the_same(
    whole: Path, tmp_path: Path, call: Call
) -> None:
    out = tmp_path / "truth"
    process = subprocess.Popen(
        command(*TRUTH, "--workers=2", f"--out={out}"), env=ENVIRONMENT, stderr=subprocess.PIPE
    )
    with process:
        try:
            deadline = time.monotonic() + 200
            while not list(out.glob("trainings/*/result.json")):
                assert process.poll() is None
                assert time.monotonic() < deadline, "nothing within 200 s"
                time.sleep(0.01)
            assert len(processes_of(out)) > 1
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 128 + signal.SIGTERM
    assert processes_of(out) == []
    assert not (out / "result.json").exists()
    finished = {path: path.stat().st_mtime_ns for path in out.glob("trainings/*/result.json")}
    resumed = call("truth", "--resume", f"--out={out}")
    assert resumed.code == 0, resumed.err
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert lasting(out) == lasting(whole)
    assert call("truth", "--resume", *TRUTH[1:], f"--out={out}").code == 0
    assert lasting(out) == lasting(whole)


@pytest.fixture
def almost(whole: Path, tmp_path: Path) -> Path:
    """The same without the last training in the file."""
    folder = tmp_path / "almost"
    shutil.copytree(whole, folder)
    for left in (folder / "result.json", folder / "trainings" / last(folder) / "result.json"):
        left.unlink()
    return folder


def last(folder: Path) -> str:
    return (folder / "truth.csv").read_text().splitlines()[-1].partition(",")[0]


@pytest.fixture
def deaths(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Code for the next processes, in place of trainings; all that are given have to be used."""
    real, codes = Finish.start, list[str]()

    def start(how: Finish, path: Path) -> "subprocess.Popen[bytes]":
        if not codes:
            return real(how, path)
        with (path / "output.txt").open("ab") as output:
            return subprocess.Popen([sys.executable, "-c", codes.pop(0)], stderr=output)

    monkeypatch.setattr(Finish, "start", start)
    yield codes
    assert codes == []


KILLED = "import os; os.kill(os.getpid(), 9)"
NO_MEMORY = "raise MemoryError('none is left')"
REFUSED = "import sys; print('mobilenas: the images are gone', file=sys.stderr); sys.exit(2)"


def test_a_training_that_dies_once_is_started_again(
    whole: Path, almost: Path, deaths: list[str], call: Call
) -> None:
    deaths.append(KILLED)
    done = call("truth", "--resume", f"--out={almost}")
    assert done.code == 0, done.err
    assert f"{last(whole)}: killed by signal 9; it is started once more" in done.err
    assert lasting(almost) == lasting(whole)


def test_one_that_dies_twice_is_left_out_and_named(
    whole: Path, almost: Path, deaths: list[str], call: Call
) -> None:
    deaths += [KILLED, NO_MEMORY]
    done = call("truth", "--resume", f"--out={almost}", "--json")
    assert done.code == 1
    reason = "MemoryError: none is left"
    end = done.err.splitlines()[-1]
    assert end.startswith(f"mobilenas: 1 training failed: {last(whole)} ({reason}); ")
    printed = json.loads(done.out)
    assert printed["failed"] == {last(whole): reason}
    assert len(printed["archs"]) == 2
    assert not (almost / "result.json").exists()
    lines = (whole / "truth.csv").read_text().splitlines()
    assert (almost / "truth.csv").read_text().splitlines() == lines[:-1]


def test_bad_input_of_a_training_stops_all(almost: Path, deaths: list[str], call: Call) -> None:
    deaths.append(REFUSED)
    check_refused(call("truth", "--resume", f"--out={almost}"), "mobilenas: the images are gone")


def test_trainings_end_when_the_command_is_killed(tmp_path: Path) -> None:
    """kill -9 leaves no chance to end them: the kernel does it."""
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux ends children with their parent")
    parent = (
        "import subprocess, time; from mobilenas.base.process import end_with_parent\n"
        "child = subprocess.Popen(['sleep', '300'], preexec_fn=end_with_parent)\n"
        "print(child.pid, flush=True); time.sleep(300)"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        child = Path("/proc") / process.stdout.readline().strip() / "cmdline"
        assert child.read_text()
        process.kill()
    deadline = time.monotonic() + 20
    while child.exists() and child.read_text():
        assert time.monotonic() < deadline, "it is still there"
        time.sleep(0.01)


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run folders are made, processes are not."""
    monkeypatch.setattr(trainings, "finish_runs", lambda *_: {})


def test_archs_of_a_search_with_the_weights_of_the_supernet(
    job: Job, tmp_path: Path, call: Call, no_training: None
) -> None:
    out = tmp_path / "truth"
    asked = ("truth", f"--search={job.search}", f"--inherit={job.supernet}", "-n2", *ALONE)
    done = call(*asked, f"--out={out}")
    assert done.code == 0, done.err
    about = read(out)
    front = read(job.search, "front.json")["front"]
    assert about["facts"]["archs"] == spread_archs(front, 2)
    assert about["parents"] == {"supernet": str(job.supernet), "search": str(job.search)}
    assert (about["settings"]["data"], about["settings"]["seed"]) == ("digits", 1)
    for arch in about["facts"]["archs"]:
        run = read(out / "trainings" / arch)
        assert run["parents"] == {"supernet": str(job.supernet)}
        assert run["settings"]["inherit"] == str(job.supernet)
    assert call(*asked, "--resume", f"--out={out}").code == 0
    many = call(*asked[:3], "-n99", *ALONE, f"--out={tmp_path / 'all'}")
    assert f"the front of {job.search} has {len(front)} archs, 99 were asked for" in many.err
    assert sorted(read(tmp_path / "all")["facts"]["archs"]) == sorted(x["arch"] for x in front)


TOO_MANY = "--set=validate_images=1442"
ARCHS = [str(arch) for arch in ("e3k3_e3k3_e3k3_e3k3_e3k3_e3k3", "e3k3_e3k3_e3k3_e3k3_e3k3_e6k7")]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["which archs? give --space, --search or --inherit"]),
        (["--space=s9"], ["s9"]),
        (["--space=nb101"], ["nb101", "cells"]),
        ([f"--space={TINY_SPACE}", "--arch=e3k3"], ["arch has 1 blocks, space digits"]),
        ([f"--space={TINY_SPACE}", f"--arch={ARCHS[0]}", "-n2"], ["--arch and -n"]),
        ([f"--space={TINY_SPACE}", *[f"--arch={ARCHS[0]}"] * 2], [ARCHS[0], "given twice"]),
        (
            [f"--space={TINY_SPACE}", TOO_MANY],
            ["validate_images 1442: must be less than"],
        ),
        ([f"--space={TINY_SPACE}", "--set=epoch=1"], ["epoch", "did you mean epochs?"]),
        ([f"--space={TINY_SPACE}", "--preset=slow"], ["slow"]),
        ([f"--space={TINY_SPACE}", "--data=nowhere"], ["nowhere"]),
        (["--search=nowhere"], ["nowhere", "mobilenas evolve"]),
        (["--inherit=nowhere"], ["nowhere", "mobilenas supernet-train"]),
    ],
)
def test_bad_input_stops_before_any_training(
    arguments: list[str], words: list[str], tmp_path: Path, call: Call
) -> None:
    check_refused(call("truth", *arguments, f"--out={tmp_path / 'out'}"), *words)
    assert list(tmp_path.rglob("result.json")) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (TRUTH[1:], ["already holds a run", "--resume"]),
        (["--resume", "-n4"], ["was started with other archs"]),
        (["--resume", f"--arch={ARCHS[0]}"], ["was started with other archs"]),
        (["--resume", "--seed=4"], ["another seed (3, not 4)"]),
        (["--resume", *ALONE, "--set=epochs=3"], ["another config.epochs"]),
        (["--resume", "--space=digits"], ["another space.name"]),
        (["--resume", "--data=nowhere"], ["another data"]),
        (["--resume", "--inherit=nowhere"], ["another inherit"]),
    ],
)
def test_what_may_not_change_on_resume(
    arguments: list[str], words: list[str], whole: Path, call: Call
) -> None:
    before = contents(whole)
    check_refused(call("truth", *arguments, f"--out={whole}"), str(whole), *words)
    assert contents(whole) == before


def test_trainings_that_are_there_need_the_settings_of_the_others(
    whole: Path, tmp_path: Path, call: Call
) -> None:
    out = tmp_path / "truth"
    shutil.copytree(whole / "trainings", out / "trainings")
    space = load_space(TINY_SPACE)
    (arch, *_) = (str(space.parse(arch)) for arch in read(whole)["facts"]["archs"])
    start = ("truth", f"--space={TINY_SPACE}", f"--arch={arch}", *ALONE, f"--out={out}")
    check_refused(call(*start, "--seed=4"), str(out / "trainings" / arch), "another seed (3, not")
    assert call(*start, "--seed=3").code == 0
    assert len((out / "truth.csv").read_text().splitlines()) == 4  # the other trainings too
