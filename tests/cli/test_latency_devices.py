"""`latency build` and `latency check` on a file of devices."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import Call, check_refused
from test_latency_commands import DEVICE, SPACE

from mobilenas.cost.latency import read_table

QUICK = {"name": "quick", "runtime": "command", "command": DEVICE}
DEAD = {"name": "dead", "runtime": "command", "command": "cat {model} > /dev/null; exit 3"}
BUILD = ("latency", "build", "--space=three.yaml", "--devices=farm.yaml")
CHECK = ("latency", "check", "--space=three.yaml", "--devices=farm.yaml", "-n", "6")


def write(*devices: dict[str, Any]) -> None:
    Path("farm.yaml").write_text(yaml.safe_dump({"devices": list(devices)}))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("three.yaml").write_text(yaml.safe_dump(SPACE))
    write(DEAD, QUICK)


@pytest.mark.timeout(600)
@pytest.mark.skipif(find_spec("ray") is None, reason="the extra `dist` is not installed")
def test_tables_are_built_and_checked_and_who_has_none_is_named(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mobilenas.latency.farm.PAUSES", (0.01,))
    name = "quick-command-fp32-three"
    built = call(*BUILD, "--json", "--out=runs", "--tables=latency_tables")
    assert built.code == 1
    assert built.err.splitlines()[-1] == (
        "mobilenas: 1 of 2 devices unfinished, --resume continues: dead "
        "(--command ended with exit code 3: nothing on stderr)"
    )
    found = json.loads(built.out)
    table = f"latency_tables/{name}.json"
    assert found["tables"] == {"quick": {"table": table, "rows": 11, "networks": 11}}
    assert list(found["unfinished"]) == ["dead"]
    assert Path(f"runs/{name}/timings.jsonl").is_file()
    check_refused(call(*BUILD, "--out=runs"), "already holds a run", "--resume")

    checked = call(*CHECK)
    assert checked.code == 1 and "dead (no latency table" in checked.err
    assert "6 networks that the table was not fitted to" in checked.out
    check = read_table(Path(table)).check
    assert check is not None and check.predictors["table"].mape < 0.01
    assert Path(f"runs/latency/{name}-check/check.png").is_file()
    check_refused(call(*CHECK), f"{name}-check", "already holds a run", "--resume")


def test_the_next_command_names_the_space_at_its_resolution(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {"quick": {"table": "x.json", "rows": 11, "networks": 11}}
    monkeypatch.setattr("mobilenas.latency.farm.on_devices", lambda *_: (made, {}))
    built = call(*BUILD, "--resolution=16")
    assert built.code == 0, built.err
    assert built.out.splitlines()[-1] == (
        "next: mobilenas latency check --devices farm.yaml --space three.yaml:resolution=16"
    )


def test_devices_that_have_nothing_to_resume(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was never reached has no run; beside others that have one it is begun."""
    reached: list[str] = []

    def on_devices(address: object, devices: Any, settings: Any, work: Any) -> Any:
        both = dict(zip((x.name for x in devices), settings, strict=True))
        done = {x: work(both[x], both[x].host(Path("graphs"))) for x in both if x in reached}
        return done, {x: "it is gone" for x in both if x not in reached}

    monkeypatch.setattr("mobilenas.latency.farm.on_devices", on_devices)
    write(QUICK, QUICK | {"name": "late"})
    told = "nothing was timed: quick (it is gone); late (it is gone)"
    check_refused(call(*BUILD, "--out=runs"), told, code=1)
    check_refused(call(*BUILD, "--out=runs", "--resume"), "runs holds no run to resume")
    reached.append("quick")
    assert "--resume continues: late (it is gone)" in call(*BUILD, "--out=runs").err
    reached.append("late")
    outcome = call(*BUILD, "--out=runs", "--resume")
    assert outcome.code == 0, outcome.err
    assert "late-command-fp32-three holds no run to resume: starting one" in outcome.err


def test_what_the_file_says_is_not_said_beside_it(call: Call) -> None:
    for option in ("--threads=2", "--device=x", "--runtime=command", "--dtype=int8", "--batch=1"):
        check_refused(call(*BUILD, option), option.partition("=")[0], "leave it out")
    check_refused(call(*CHECK, "x"), "TABLE: leave it out")
    check_refused(call(*CHECK, f"--command={DEVICE}"), "--command: leave it out")
    check_refused(call("latency", "check", "--devices=farm.yaml"), "--devices needs --space")
    check_refused(call(*CHECK), "no latency table for device 'dead-command-fp32-three'")
    check_refused(call("latency", "build", "--devices=farm.yaml"), "--space is missing")
    write(QUICK | {"comand": "x"})
    check_refused(call(*BUILD), "device quick: comand", "did you mean command?")
    assert not Path("runs").exists() and not Path("latency_tables").exists()
