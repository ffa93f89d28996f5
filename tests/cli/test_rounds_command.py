"""`evolve` by stand-alone accuracies: a truth file, and a training in between."""

import json
from pathlib import Path

import pytest
from helpers import ALONE, Call, Job, check_refused, contents, edit

from mobilenas.space import load_space

SPACE = load_space("digits:resolution=16")
SMALL = ("--population=6", "--generations=3")


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine accuracies that grow with the expansions."""
    path = tmp_path_factory.mktemp("truth") / "truth.csv"
    archs = [
        "_".join(["e6k3"] * n + ["e3k3"] * (5 - n) + [last])
        for n in range(5)
        for last in ("e3k3", "e3k5")
    ][:9]
    rows = [f"{arch},{0.8 + 0.01 * i}" for i, arch in enumerate(archs)]
    path.write_text("\n".join(["arch,accuracy", *rows, ""]))
    return path


def test_a_search_by_a_truth_file(job: Job, truth: Path, tmp_path: Path, call: Call) -> None:
    out = tmp_path / "evolve"
    asked = ("evolve", f"--supernet={job.supernet}", "--flops=1.5M", *SMALL, f"--out={out}")
    done = call(*asked, f"--truth={truth}")
    assert done.code == 0, done.err
    head = done.out.splitlines()[0]
    assert head.split()[:5] == ["prediction", "deviation", "trained", "supernet", "naswot"]
    assert "prediction: from 9 stand-alone accuracies; Kendall's tau" in done.out
    front = json.loads((out / "front.json").read_text())
    assert len(front["truth"]["accuracy"]) == 9
    measured = {json.loads(line)["arch"] for line in (out / "measured.jsonl").open()}
    assert set(front["truth"]["accuracy"]) <= measured
    again = call("evolve", "--resume", "--json", f"--out={out}")  # the truth file is found
    assert again.code == 0, again.err
    assert json.loads(again.out)["prediction"] == front["prediction"]
    other = truth.with_name("other.csv")
    other.write_text(truth.read_text().replace("0.88", "0.7"))
    refused = call("evolve", "--resume", f"--truth={other}", f"--out={out}")
    check_refused(refused, str(out), "was started with another evaluator")
    pick = call("train", f"--search={out}", *ALONE, "--set=epochs=1", f"--out={tmp_path / 'train'}")
    assert pick.code == 0, pick.err


def test_a_round_trains_what_was_found(job: Job, truth: Path, tmp_path: Path, call: Call) -> None:
    out = tmp_path / "evolve"
    recipe = (*ALONE, "--set=epochs=1", "--inherit")
    done = call(
        *("evolve", f"--supernet={job.supernet}", "--objectives=prediction", "--flops=1.5M"),
        *(*SMALL, f"--truth={truth}", "--rounds=1", "--per-round=1", *recipe, f"--out={out}"),
    )
    assert done.code == 0, done.err
    (arch,) = json.loads((out / "round-1" / "trained.json").read_text())
    result = json.loads((out / "truth" / "trainings" / arch / "result.json").read_text())
    settings = json.loads((out / "truth" / "trainings" / arch / "run.json").read_text())["settings"]
    assert settings["inherit"] == str(job.supernet.resolve())
    # Weights of the supernet have seen its training images, so none of them may be held out here,
    # whatever the seed.
    ours, theirs = (
        json.loads((run / "splits.json").read_text())
        for run in (out / "truth" / "trainings" / arch, job.supernet)
    )
    assert ours["validate"] == theirs["validate"] and ours["train"] != theirs["train"]
    front = json.loads((out / "front.json").read_text())
    assert front["truth"]["accuracy"][arch] == result["last_accuracy"]
    before = contents(out)
    again = call("evolve", "--resume", f"--out={out}")  # all settings of the rounds are known
    assert again.code == 0 and again.out == done.out
    assert contents(out) == before
    for flag in ("--rounds=2", "--per-round=2", "--set=epochs=3"):
        refused = call("evolve", "--resume", flag, *ALONE[:4], f"--out={out}")
        check_refused(refused, "was started with another evaluator")
    settings = json.loads((out / "run.json").read_text())["settings"]
    del settings["evaluator"]["rounds"]["config"]["mixup"]  # as before there was this key
    edit(out / "run.json", settings=settings)
    for flags in ((), recipe):
        again = call("evolve", "--resume", *flags, f"--out={out}")
        assert again.code == 0 and again.out == done.out, again.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--per-round=4"],
            "--per-round, --preset, --set and --inherit go with --rounds",
        ),
        (["--inherit"], "go with --rounds"),
        (["--objectives=prediction"], "prediction goes with --truth or --rounds"),
        (["--objectives=score", "--rounds=1"], "prediction goes with --truth or --rounds"),
        (["--rounds=1", "--set=batch_size=100000"], "batch_size"),
        (["--rounds=1", "--preset=nosuch"], "nosuch"),
        (["--rounds=1", "--population=3", "--generations=2"], "finds 6 archs at most"),
    ],
)
def test_flags_that_do_not_fit(
    flags: list[str], message: str, job: Job, tmp_path: Path, call: Call
) -> None:
    out = tmp_path / "evolve"
    check_refused(call("evolve", f"--supernet={job.supernet}", *flags, f"--out={out}"), message)
    assert not [path for path in out.rglob("*") if path.name != ".lock"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:8], "7 stand-alone accuracies are too few"),
        (lambda lines: [line.split(",")[0] + ",0.5" for line in lines[1:]], "all 9 stand-alone"),
    ],
)
def test_truths_that_say_nothing(
    change: object, message: str, job: Job, truth: Path, tmp_path: Path, call: Call
) -> None:
    lines = truth.read_text().splitlines()
    assert callable(change)
    rows = change(lines)
    rows = rows if rows[0] == lines[0] else [lines[0], *rows]
    path = tmp_path / "few.csv"
    path.write_text("\n".join([*rows, ""]))
    out = tmp_path / "evolve"
    refused = call("evolve", f"--supernet={job.supernet}", f"--truth={path}", f"--out={out}")
    check_refused(refused, str(path), message)
