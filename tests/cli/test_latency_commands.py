"""Building, checking and listing tables through the command line, with a device made of sh.

The device takes a microsecond a byte of the ONNX file, so its times are known, and a network takes
about the sum of its parts.
"""

import json
import sys
from collections import Counter
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import Call, check_refused
from tables import made_up_table

from mobilenas.cost.latency import read_table, write_table
from mobilenas.cost.rows import rows_of
from mobilenas.space import Space, space_from_dict

DEVICE = "stat -c %s {model}"
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
    assert "12 networks that it was not fitted to" in checked.out
    stored = read_table(Path(f"latency_tables/{NAME}.json"))
    assert stored.check is not None and stored.check.networks == 12
    assert stored.check.predictors["table"].mape < 0.01
    assert stored.check.predictors["table"].mape < stored.check.predictors["flops"].mape
    assert stored.model_copy(update={"check": None}) == table
    assert Path(f"runs/latency/{NAME}/check.png").read_bytes().startswith(b"\x89PNG")

    listed = call("latency", "list")
    assert NAME in listed.out and "100.0 %" in listed.out
    assert json.loads(call("latency", "list", "--json").out)[NAME]["device"] == "sh"


def test_timings_in_a_folder_are_not_overwritten(call: Call) -> None:
    assert build(call).code == 0
    log = Path(f"runs/latency/{NAME}/timings.jsonl").read_bytes()
    check_refused(build(call), "already holds timings", "--resume")
    check_refused(build(call, "--resume", "--seed=1"), "another seed (0 there, 1 here)")
    assert Path(f"runs/latency/{NAME}/timings.jsonl").read_bytes() == log


def test_a_short_budget_keeps_what_was_timed(
    call: Call, monkeypatch: pytest.MonkeyPatch, space: Space
) -> None:
    clock = count(step=0.25)
    with monkeypatch.context() as patch:
        # Each look at the clock takes a quarter of a second, so a few rows are timed.
        patch.setattr("mobilenas.latency.measure.time.monotonic", lambda: next(clock))
        stopped = build(call, "--budget=12s")
    assert stopped.code == 2
    assert "11 rows were not reached" in stopped.err.splitlines()[-1]
    timings = Path(f"runs/latency/{NAME}/timings.jsonl")
    kept = timings.read_text()
    assert 0 < len(kept.splitlines()) < 11
    resumed = build(call, "--resume")
    assert resumed.code == 0, resumed.err
    assert timings.read_text().startswith(kept)
    visits = Counter(json.loads(line)["key"] for line in timings.read_text().splitlines())
    assert {visits[key] for key in rows_of(space).distinct} == {5}


def test_the_budget_bounds_the_number_of_networks(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mobilenas.latency.build.FIRST_CHUNK", 3)
    clock = count(step=0.25)
    with monkeypatch.context() as patch:
        patch.setattr("mobilenas.latency.measure.time.monotonic", lambda: next(clock))
        built = build(call, "--budget=60s")
    assert built.code == 0, built.err
    assert "the time budget is used" in built.err
    table = read_table(Path(f"latency_tables/{NAME}.json"))
    assert 5 <= len(table.calibration.archs) < 11


def test_without_networks_the_rows_are_those_of_blocks_alone(
    call: Call, monkeypatch: pytest.MonkeyPatch
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
        (["--space=three.yaml"], ["--space and --device"]),
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
    monkeypatch.setattr("mobilenas.latency.runtimes.importlib.metadata.version", _raise_not_found)
    refused = call("latency", "build", "--space=three.yaml", "--device=x", "--runtime=executorch")
    check_refused(refused, "executorch is not installed", "mobilenas[mobile]")


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
    check_refused(call("latency", "check", "phone", "--space=s1"), "is for 12 px", "32 px")
