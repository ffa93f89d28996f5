"""Runtimes by their names: what each refuses, and those that are installed do the whole job."""

import importlib.metadata
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from exporting import INFO, TINY, Exported, build, export

from mobilenas.base.errors import BadInput
from mobilenas.export import RUNTIMES, Form, evaluate, make_form, make_runtime
from mobilenas.runtimes.registry import runtime_of

OPTIONAL = {
    "litert": ["litert_torch", "ai_edge_litert"],
    "openvino": ["openvino"],
    "ncnn": ["pnnx", "ncnn"],
}


def form(runtime: Any, **asked: Any) -> Form:
    nothing = {"opset": None, "batch": None, "preprocess": False, "int8": False}
    return make_form(runtime, **nothing | asked)


def fake(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A runtime whose packages seem to be there."""
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "1")
    return make_runtime(name)


def test_names_and_suffixes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in RUNTIMES:
        runtime = fake(name, monkeypatch)
        assert runtime.name == name
        assert runtime_of(Path(f"model{runtime.suffix}")) is type(runtime)
    with pytest.raises(BadInput, match="--runtime tflite: choose one of onnxruntime, executorch"):
        make_runtime("tflite")


@pytest.mark.parametrize("name", [name for name in RUNTIMES if name != "onnxruntime"])
def test_a_missing_package_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str) -> str:
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(BadInput, match=r"^[\w-]+ is not installed: pip install .* brings it$"):
        make_runtime(name)


def test_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    onnx, ncnn = make_runtime("onnxruntime"), fake("ncnn", monkeypatch)
    executorch, openvino = fake("executorch", monkeypatch), fake("openvino", monkeypatch)
    assert form(onnx) == form(onnx, batch="dynamic") == form(openvino) == Form()
    assert form(onnx, opset=21, batch="7", preprocess=True, int8=True) == Form(21, 7, True)
    assert form(executorch, int8=True) == form(ncnn, batch="1") == Form(batch=1)
    for runtime, asked, message in (
        (onnx, {"opset": 13}, "--opset 13: must be 14 to 26"),
        (onnx, {"opset": 27}, "--opset 27: must be 14 to 26"),
        (executorch, {"opset": 18}, "--opset is of ONNX files; executorch has none"),
        (onnx, {"batch": "0"}, "--batch 0: must be `dynamic` or a number from 1"),
        (onnx, {"batch": "-3"}, "--batch -3: must be `dynamic`"),
        (onnx, {"batch": "²"}, "--batch ²: must be `dynamic`"),
        (executorch, {"batch": "dynamic"}, "--batch dynamic: executorch needs a number"),
        (ncnn, {"batch": "2"}, "--batch 2: ncnn runs one image at a time"),
        (ncnn, {"preprocess": True}, "--preprocess: ncnn has no uint8 inputs"),
        (openvino, {"int8": True}, "--int8: openvino has none here"),
    ):
        with pytest.raises(BadInput, match=message):
            form(runtime, **asked)


@pytest.mark.parametrize("name", OPTIONAL)
def test_an_optional_runtime_does_the_whole_job(name: str, tiny: Exported, tmp_path: Path) -> None:
    for package in OPTIONAL[name]:
        pytest.importorskip(package, reason=f"{package} is not installed")
    runtime = make_runtime(name)
    info = replace(INFO, classes=tuple("0123456789"), accuracy=None)
    path = tmp_path / f"model{runtime.suffix}"
    forms = [form(runtime)]
    forms += [form(runtime, preprocess=True, batch="3")] if runtime.takes_bytes else []
    for asked in forms:
        export(build(TINY), path, info=info, runtime=runtime, form=asked)
        found, expected = evaluate(path, "digits"), evaluate(tiny.path, "digits")
        assert found.runtime == name
        assert abs(found.top1 - expected.top1) < (0.01 if name == "ncnn" else 1e-9)
