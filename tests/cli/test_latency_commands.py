"""Building, checking and listing tables through the command line, with a device made of sh.

The device takes a microsecond a byte of the ONNX file, so its times are known, and a network takes
about the sum of its parts.
"""

import hashlib
import json
import shlex
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import Call, Outcome, check_refused
from tables import made_up_table

from mobilenas.cost.latency import read_table, write_table
from mobilenas.cost.rows import rows_of
from mobilenas.latency.networks import design
from mobilenas.runtimes.command import Command
from mobilenas.space import Space, space_from_dict

DEVICE = "wc -c < {model}"
NAME = "sh-command-fp32-three"


# 11 rows, 27 archs.
SPACE = {
    "name": "three",
    "description": "three blocks of three candidates",
    "resolution": 12,
    "num_classes": 3,
    "stem": {"channels": 8},
    "candidates": ["e2k3", "e2k35", "e4k5"],
    "stages": [{"channels": 8}, {"channels": 12, "stride": 2}, {"channels": 16}],
    "head": {"channels": 24},
}


@pytest.fixture(autouse=True)
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Space:
    monkeypatch.chdir(tmp_path)
    Path("three.yaml").write_text(yaml.safe_dump(SPACE))
    return space_from_dict(SPACE)


def build(call: Call, *more: object) -> Any:
    return call(
        *("latency", "build", "--space=three.yaml", "--device=sh", "--runtime=command"),
        *(f"--command={DEVICE}", "--budget=5m", *more),
    )


def test_a_table_is_built_checked_and_listed(call: Call, space: Space) -> None:
    built = build(call, "--json")
    assert built.code == 0, built.err
    table = read_table(Path(json.loads(built.out)["table"]))
    assert table.name == NAME and table.covers(space)
    assert table.calibration.method == "fitted to networks"
    assert table.calibration.loo_mape is not None and table.calibration.loo_mape < 0.01
    assert not any(row.flags for row in table.rows.values())

    checked = call(
        "latency", "check", "sh", "--space=three.yaml", f"--command={DEVICE}", "-n", "12"
    )
    assert checked.code == 0, checked.err
    assert "12 networks that the table was not fitted to" in checked.out
    stored = read_table(Path(f"latency_tables/{NAME}.json"))
    assert stored.check is not None and stored.check.networks == 12
    assert stored.check.predictors["table"].mape < 0.01
    assert stored.check.predictors["table"].mape < stored.check.predictors["flops"].mape
    assert stored.model_copy(update={"check": None}) == table
    assert Path(f"runs/latency/{NAME}-check/check.png").read_bytes().startswith(b"\x89PNG")

    listed = call("latency", "list")
    assert NAME in listed.out and "100.0 %" in listed.out
    assert json.loads(call("latency", "list", "--json").out)[NAME]["device"] == "sh"


@dataclass
class Clock:
    """A device on which every visit takes a second, and a network a microsecond a byte."""

    now: float = 0.0
    noisy: str | None = None
    visits: int = 0

    def time(self, path: Path) -> list[float]:
        self.now += 1
        self.visits += 1
        slower = 1.5 if path.stem == self.noisy and self.visits % 2 else 1.0
        return [path.stat().st_size * slower / 1000]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(Command, "time", lambda runtime, path, example, seconds: clock.time(path))
    for module in ("build", "measure"):
        monkeypatch.setattr(f"mobilenas.latency.{module}.monotonic", lambda: clock.now)
    return clock


def log_of_visits() -> Counter[str]:
    lines = Path(f"runs/latency/{NAME}/timings.jsonl").read_text().splitlines()
    return Counter(json.loads(line)["key"] for line in lines)


def test_timings_in_a_folder_are_not_overwritten(call: Call, clock: Clock) -> None:
    assert build(call).code == 0
    log = Path(f"runs/latency/{NAME}/timings.jsonl").read_bytes()
    check_refused(build(call), "already holds a run", "--resume")
    check_refused(build(call, "--resume", "--seed=1"), "another seed (0, not 1)")
    Path(f"runs/latency/{NAME}/run.json").write_text("[]")
    check_refused(build(call, "--resume"), "run.json: the file: must be a mapping")
    assert Path(f"runs/latency/{NAME}/timings.jsonl").read_bytes() == log


def test_a_short_budget_keeps_what_was_timed(call: Call, clock: Clock, space: Space) -> None:
    stopped = build(call, "--budget=6s")
    assert stopped.code == 2
    assert "of 11 rows were not reached" in stopped.err.splitlines()[-1]
    timings = Path(f"runs/latency/{NAME}/timings.jsonl")
    kept = timings.read_text()
    assert 0 < len(kept.splitlines()) < 11
    resumed = build(call, "--resume")
    assert resumed.code == 0, resumed.err
    assert timings.read_text().startswith(kept)
    assert {log_of_visits()[key] for key in rows_of(space).distinct} == {5}


def test_the_budget_bounds_the_number_of_networks(call: Call, clock: Clock, space: Space) -> None:
    built = build(call, "--budget=60s")
    assert built.code == 0, built.err
    assert clock.now < 65
    table = read_table(Path(f"latency_tables/{NAME}.json"))
    assert 5 <= len(table.calibration.archs) < 11
    used, drawn = len(table.calibration.archs), len(design(space, 11, seed=0))
    assert f"the time budget is used: {used} of {drawn} networks" in built.err
    # Two fifths of a minute are no five visits for every row.
    assert "rows are flagged: few visits" in built.err
    assert {row.flags for row in table.rows.values()} >= {("few visits",)}


def test_rows_with_a_wide_spread_are_timed_again_and_flagged(
    call: Call, clock: Clock, space: Space
) -> None:
    key = rows_of(space).choices[0][0]
    assert key is not None
    clock.noisy = hashlib.sha256(key.encode()).hexdigest()[:16]
    built = build(call)
    assert "1 of 11 rows are flagged: wide spread" in built.err
    table = read_table(Path(f"latency_tables/{NAME}.json"))
    assert [k for k, row in table.rows.items() if row.flags] == [key]
    visits = log_of_visits()
    assert visits[key] == 10
    assert {visits[other] for other in table.rows if other != key} == {5}


FEW = "candidates=[e2k3,e2k5,e4k3]"


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ("three.yaml", "three.yaml:resolution=16"),
        (f"three.yaml:{FEW}", f"three.yaml:{FEW},resolution=16"),
        (f"digits:{FEW}", None),  # the name of the table's space is enough
    ],
)
def test_the_next_command_takes_the_table_of_another_resolution(
    call: Call, clock: Clock, asked: str, named: str | None
) -> None:
    built = build(call, f"--space={asked}", "--resolution=16")
    assert built.code == 0, built.err
    (line,) = (line for line in built.out.splitlines() if line.startswith("next: "))
    command, table, *options = shlex.split(line.removeprefix("next: mobilenas latency "))
    assert options == [*(["--space", named] if named else []), "--command", "..."]
    checked = call("latency", command, table, *options[:-1], DEVICE, "-n", "5")
    assert checked.code == 0, checked.err


def test_a_check_is_continued_and_kept_apart(call: Call, clock: Clock) -> None:
    assert build(call).code == 0

    def check(*more: str) -> Outcome:
        arguments = ("--space=three.yaml", f"--command={DEVICE}", "-n", "6")
        return call("latency", "check", "sh", *arguments, *more)

    assert check().code == 0
    visits = clock.visits
    check_refused(check(), "already holds a run", "--resume")
    assert check("--resume").code == 0 and clock.visits == visits
    other = call(
        *("latency", "check", "sh", "--space=three.yaml", "--command=echo 5 # {model}"),
        *("-n", "6", "--resume"),
    )
    check_refused(other, "another command")
    stored = read_table(Path(f"latency_tables/{NAME}.json")).check
    Path("sub.yaml").write_text(yaml.safe_dump(SPACE | {"name": "sub"}))
    of_part = call(
        *("latency", "check", "sh", "--space=sub.yaml", f"--command={DEVICE}", "-n", "6")
    )
    assert of_part.code == 0, of_part.err
    assert "not stored: another space" in of_part.out and "drift removed" not in of_part.out
    assert read_table(Path(f"latency_tables/{NAME}.json")).check == stored


def test_a_check_of_a_table_elsewhere_is_in_a_report_after_it_moved(
    call: Call, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert build(call, "--tables=job/mine").code == 0
    options = ("--space=three.yaml", f"--command={DEVICE}", "-n", "6", "--out=job/check")
    checked = call("latency", "check", f"job/mine/{NAME}.json", *options)
    assert checked.code == 0, checked.err
    Path("job").rename("moved")
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    reported = json.loads(call("report", tmp_path / "moved" / "check", "--json").out)
    (check,) = reported["checks"]
    assert (check["table"], check["n"]) == (NAME, 6)
    assert reported["notes"] == reported["tables"] == []


def test_a_device_of_another_make_is_told_and_not_stored(call: Call, clock: Clock) -> None:
    assert build(call).code == 0
    path = Path(f"latency_tables/{NAME}.json")
    data = json.loads(path.read_text()) | {"runtime_version": "0"}
    path.write_text(json.dumps(data))
    checked = call(
        *("latency", "check", "sh", "--space=three.yaml", f"--command={DEVICE}", "-n", "6")
    )
    assert "the table was measured with 0" in checked.err
    assert "not stored" in checked.out and read_table(path).check is None


def test_without_networks_the_rows_are_those_of_blocks_alone(
    call: Call, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mobilenas.latency.build.design", lambda space, n, seed: [])
    built = build(call)
    assert built.code == 0 and "the rows are those of blocks alone" in built.err
    table = read_table(Path(f"latency_tables/{NAME}.json"))
    assert all(row.ms == row.median_ms for row in table.rows.values())
    assert table.calibration.loo_mape is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--space=three.yaml"], ["--device is missing"]),
        (["--device=x"], ["--space is missing"]),
        (["--space=three.yaml", "--device=a b"], ["--device", "a b"]),
        (["--space=three.yaml", "--device=x", "--budget=10"], ["'10' is not a time", "10m"]),
        (["--space=three.yaml", "--device=x", "--runtime=tflite"], ["tflite", "onnxruntime"]),
        (["--space=three.yaml", "--device=x", "--dtype=int4"], ["int4", "fp32, int8"]),
        (["--space=three.yaml", "--device=x", "--runtime=command"], ["--command TEMPLATE"]),
        (["--space=nowhere", "--device=x"], ["nowhere"]),
    ],
)
def test_bad_input_to_build(call: Call, arguments: list[str], words: list[str]) -> None:
    check_refused(call("latency", "build", *arguments), *words)
    assert not Path("runs").exists()


def test_a_runtime_that_is_not_installed_names_the_extra(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "executorch", None)
    monkeypatch.setattr("importlib.metadata.version", _raise_not_found)
    refused = call("latency", "build", "--space=three.yaml", "--device=x", "--runtime=executorch")
    check_refused(refused, "executorch is not installed", "pip install '.[mobile]'")


def _raise_not_found(package: str) -> str:
    import importlib.metadata

    raise importlib.metadata.PackageNotFoundError(package)


def test_bad_input_to_check(call: Call, space: Space) -> None:
    check_refused(call("latency", "check", "fone"), "no latency table for device 'fone'")
    table = made_up_table(space, "phone-x", device="phone")
    write_table(Path("latency_tables"), table)
    check_refused(
        call("latency", "check", "phone", "--space=three.yaml"), "made up for tests", "nothing here"
    )
    # What it is, whether or not there is its space.
    for more in ([], ["--space=s1"]):
        check_refused(call("latency", "check", "phone", *more), "made up for tests", "nothing here")
    table = made_up_table(space, "watch-x", device="watch", source="measured")
    write_table(Path("latency_tables"), table)
    check_refused(call("latency", "check", "watch", "--space=s1"), "is for 12 px", "32 px")
