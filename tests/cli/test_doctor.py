"""`mobilenas doctor`: what it says is so, and what is broken does not stop it."""

import json
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from helpers import Call

import mobilenas
from mobilenas.nn.kernels.compiled import library
from mobilenas.report.doctor import describe_doctor
from mobilenas.runtimes.registry import RUNTIMES
from mobilenas.stages import doctor


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    return doctor.examine(try_out=False)


def row(text: str, part: str) -> str:
    (line,) = (line for line in text.splitlines() if line.startswith(part))
    return line


def test_the_command_prints_a_table_or_one_object(call: Call) -> None:
    shown, plain = call("doctor"), call("doctor", "--json")
    assert (shown.code, plain.code) == (0, 0)
    assert shown.out.split()[:3] == ["part", "state", "details"]
    assert json.loads(plain.out)["mobilenas"] == mobilenas.__version__


def test_it_says_what_is_so(facts: dict[str, Any]) -> None:
    assert facts["kernels"]["loaded"] == (library() is not None)
    assert facts["libraries"]["torch"]["version"] == torch.__version__.partition("+")[0]
    assert facts["libraries"]["torch"]["fits"]
    assert list(facts["runtimes"]) == list(RUNTIMES)
    assert facts["runtimes"]["onnxruntime"]["version"] == onnxruntime.__version__
    assert {"detect", "mobile", "coreml"} <= facts["extras"].keys()
    assert all("problem" not in table for table in facts["latency_tables"].values())


def test_nothing_is_said_to_have_run_that_was_not_tried(facts: dict[str, Any]) -> None:
    assert all(x["ran"] is None for x in facts["runtimes"].values() if x["installed"])
    text = describe_doctor(facts)
    assert "installed" in row(text, "runtime onnxruntime")
    assert "not tried" in row(text, "runtime onnxruntime")
    assert "detection" not in [line.split()[0] for line in text.splitlines()]


def test_a_runtime_that_is_tried_runs_a_network() -> None:
    said = doctor._trial("onnxruntime")
    assert said["ran"] is True, said
    assert said["difference"] < 1e-5


def test_a_part_that_fails_is_broken_and_says_why(facts: dict[str, Any]) -> None:
    said = doctor._trial("no such runtime")
    assert said["ran"] is False
    broken = {"installed": True, "version": "1", "dtypes": ["fp32"], "stand_in": None, **said}
    line = row(describe_doctor(facts | {"runtimes": {"ncnn": broken}}), "runtime ncnn")
    assert "broken" in line
    assert "no such runtime" in line


def test_a_package_that_cannot_be_imported_is_broken(
    facts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def imported(name: str) -> None:
        raise ImportError("libgomp.so.1: cannot open shared object file")

    monkeypatch.setattr(doctor, "runtime_class", imported)
    runtimes = {"onnxruntime": doctor._runtime("onnxruntime", try_out=False)}
    line = row(describe_doctor(facts | {"runtimes": runtimes}), "runtime onnxruntime")
    assert "broken" in line
    assert "libgomp" in line


def test_a_process_that_crashes_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.sys, "executable", "/bin/false")
    assert doctor._trial("onnxruntime") == {
        "ran": False,
        "problem": "its process ended with code 1",
    }


def test_a_package_of_another_version_does_not_fit(facts: dict[str, Any]) -> None:
    there = doctor._package(doctor.Requirement("numpy<1"))
    assert not there["fits"]
    missing = doctor._package(doctor.Requirement("no-such-package-at-all>=1"))
    assert missing == {"version": None, "needs": ">=1", "fits": False}
    extras = {"extras": {"own": {"numpy": there, "no-such": missing}}}
    line = row(describe_doctor(facts | extras), "extra own")
    assert f"numpy<1 ({there['version']}), no-such>=1 (missing)" in line


def test_a_damaged_latency_table_is_named(call: Call, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latency_tables").mkdir()
    (tmp_path / "latency_tables/mine.json").write_text("{}")
    done = call("doctor")
    assert done.code == 0
    assert "mine.json" in row(done.out, "latency tables")


def test_an_accelerator_is_used_before_it_is_named(
    facts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(*, check_available: bool) -> torch.device:
        return torch.device("cpu")

    monkeypatch.setattr(torch.accelerator, "current_accelerator", found)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    (works,) = doctor._accelerators()
    assert works == {"device": "cpu:0", "name": "cpu", "ran": True}
    failed = works | {"ran": False, "problem": "no kernel image"}
    for each, words in (
        (works, ["yes", "cpu, a sum ran on it"]),
        (failed, ["broken", "no kernel"]),
    ):
        line = row(describe_doctor(facts | {"accelerators": [each]}), "cpu:0")
        assert all(word in line for word in words)


def test_the_folder_of_data_is_looked_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(doctor.DATA_ROOT, str(tmp_path))
    assert doctor._data_root() == {"path": str(tmp_path), "is_folder": True}
    monkeypatch.setenv(doctor.DATA_ROOT, str(tmp_path / "none"))
    assert doctor._data_root()["is_folder"] is False
