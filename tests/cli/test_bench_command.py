"""bench through the command line."""

import importlib.metadata
import json
from pathlib import Path

import pytest
from helpers import Call, check_refused
from make_graphs import write_graph


def test_files_are_compared(tmp_path: Path, call: Call) -> None:
    about = {"flops_multiply_adds": "1000000"}
    ours = write_graph(tmp_path / "ours.onnx", ("n", 3, 8, 8), metadata=about)
    theirs = write_graph(tmp_path / "theirs.onnx", ("n", 3, "h", "w"))
    command = ("bench", ours, theirs, "--rounds=2", "--resolution=10", "--threads=2")
    done = call(*command, "--json")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert (result["rounds"], result["threads"]) == (2, 2)
    assert [(f["path"], f["input_shape"]) for f in result["files"]] == [
        (str(ours), [1, 3, 8, 8]),
        (str(theirs), [1, 3, 10, 10]),
    ]
    shown = call(*command)
    assert f"--resolution 10: {ours} only takes images of 3x8x8" in shown.err
    text = shown.out
    head, first, second, *notes = text.splitlines()
    assert " ".join(head.split()) == "file runtime input size memory ms spread runs ms/GMAC x"
    assert first.split()[0] == str(ours) and first.split()[-1] == "1.000"
    assert second.split()[0] == str(theirs) and "float32 1x3x10x10" in second
    assert second.split()[-2] == "-"
    assert "2 threads" in " ".join(notes)


def test_figures_are_stored_beside_each_file(tmp_path: Path, call: Call) -> None:
    path = write_graph(tmp_path / "ours.onnx", (1, 3, 8, 8))
    result = json.loads(call("bench", path, "--rounds=1", "--save", "--json").out)
    stored = json.loads((tmp_path / "ours.onnx.bench.json").read_text())
    assert stored["ms"] == result["files"][0]["ms"]
    assert (stored["threads"], stored["processor"]) == (1, result["processor"])


def test_what_cannot_be_stored_is_said_before_anything_is_measured(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_graph(tmp_path / "ours.onnx", (1, 3, 8, 8))
    (tmp_path / "ours.onnx.bench.json").mkdir()
    monkeypatch.setattr("mobilenas.latency.bench.bench_files", None)
    check_refused(call("bench", path, "--save"), "ours.onnx.bench.json: it is a folder")


def test_what_bench_refuses(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    good = write_graph(tmp_path / "good.onnx", (1, 3, 8, 8))
    torn = tmp_path / "torn.onnx"
    torn.write_bytes(good.read_bytes()[:100])
    text = tmp_path / "notes.txt"
    pte = tmp_path / "net.pte"
    for file in (text, pte):
        file.touch()
    check_refused(call("bench", good, tmp_path / "none.onnx"), "no such file", "none.onnx")
    check_refused(call("bench", good, text), "notes.txt", ".onnx or .pte")
    none = f"--resolution 9: leave it out; {good} only takes images of 3x8x8"
    check_refused(call("bench", good, "--resolution=9"), none)
    check_refused(call("bench", torn), "torn.onnx: ONNX Runtime does not load it")
    assert call("bench").code == 2
    check_refused(call("bench", ".", "--save"), ". is not a file")
    assert call("bench", good, "--threads=0").code == 2

    def missing(package: str) -> str:
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    check_refused(call("bench", good, pte), "executorch is not installed", "'.[mobile]'")
