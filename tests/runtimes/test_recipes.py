"""The recipes of docs/latency_devices.md, with stubs for ssh, adb and the programs of a phone."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from make_graphs import write_graph
from onnx import TensorProto
from torch import nn

from mobilenas.base.errors import BadInput
from mobilenas.runtimes.command import Command

EXPORT = Path(__file__).parents[2] / "export"
DOCS = Path(__file__).parents[2] / "docs" / "latency_devices.md"

STUBS = {
    # scp -q FILE HOST:FILE
    "scp": 'cp "$2" "$DEVICE/${3#*:}"',
    # ssh -o OPTION HOST COMMAND...
    "ssh": 'shift 3; cd "$DEVICE" && exec sh -c "$*"',
    "python3": f'exec {sys.executable} "$@"',
    # The folder /data/local/tmp of the phone is $DEVICE.
    "adb": """
here() { printf %s "$1" | sed "s|/data/local/tmp|$DEVICE|g"; }
case $1 in
  push) echo "$2: 1 file pushed"; cp "$2" "$(here "$3")" ;;
  shell) shift; exec sh -c "$(here "$*")" ;;
esac""",
    "taskset": '[ "$1" = f0 ] && shift && exec "$@"',
}
PHONE = {
    "onnxruntime_perf_test": """
[ "$*" = "-I -m times -r 50 -x 2 $DEVICE/model.onnx $DEVICE/runs.csv" ] || exit 9
cat "$DEVICE/model.onnx" > /dev/null
echo "Setting intra_op_num_threads to 2"
for i in 0 1; do echo "tmp,0.00${i}25,7340032,12,$i" >> "$9"; done""",
    "executor_runner": """
[ "$*" = "--model_path=model.pte --num_executions=50 --cpu_threads=2" ] || exit 9
cat model.pte > /dev/null
log() { echo "I 00:00:00.001234 executorch:executor_runner.cpp:321] $1" >&2; }
log 'Iteration 1 of 50: 9.500000 ms'
log 'Model executed successfully 50 time(s) in 125.000000 ms.'
echo 'OutputX 0: tensor(sizes=[1, 10], [1., 2.])'""",
}

UNREAD = np.zeros(0, np.float32)  # a command makes its own input


def install(folder: Path, programs: dict[str, str]) -> None:
    for name, text in programs.items():
        program = folder / name
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a device that the stubs of ssh and adb reach."""
    stubs, device = tmp_path / "stubs", tmp_path / "device"
    for folder, programs in ((stubs, STUBS), (device, PHONE)):
        folder.mkdir()
        install(folder, programs)
    monkeypatch.setenv("PATH", f"{stubs}:{os.environ['PATH']}")
    monkeypatch.setenv("DEVICE", str(device))
    monkeypatch.delenv("CORES", raising=False)
    monkeypatch.chdir(EXPORT.parent)
    return device


def recipe(words: str) -> str:
    """The --command of docs/latency_devices.md that has these words."""
    templates = [
        line.split("'")[1] for line in DOCS.read_text().splitlines() if "--command '" in line
    ]
    (found,) = [template for template in templates if words in template]
    return found


def onnx_file(folder: Path, batch: str) -> Path:
    """A convolution with a batch size that is fixed or free."""
    path = folder / "conv.onnx"
    axes = {"image": {0: "batch"}} if batch == "free" else None
    image = torch.zeros(2, 3, 8, 8)
    torch.onnx.export(
        nn.Conv2d(3, 4, 3), (image,), path, dynamo=False, input_names=["image"], dynamic_axes=axes
    )
    return path


@pytest.mark.parametrize("kind", ["fixed", "free", "bytes"])
def test_time_onnx_prints_a_number_a_run(kind: str, tmp_path: Path) -> None:
    if kind == "bytes":
        model = write_graph(tmp_path / "net.onnx", ("n", 8, 8, 3), TensorProto.UINT8)
    else:
        model = onnx_file(tmp_path, kind)
    done = subprocess.run(
        [sys.executable, EXPORT / "time_onnx.py", model, "--seconds", "0.01"],
        capture_output=True,
        text=True,
        check=True,
    )
    times = [float(line) for line in done.stdout.splitlines()]
    assert len(times) >= 5
    assert min(times) > 0


def test_board_over_ssh(device: Path, tmp_path: Path) -> None:
    (device / "time_onnx.py").write_bytes((EXPORT / "time_onnx.py").read_bytes())
    times = Command(recipe("ssh"), 2).time(onnx_file(tmp_path, "fixed"), UNREAD, 0.1)
    assert len(times) >= 5
    assert min(times) > 0


def test_onnx_on_a_phone(device: Path, tmp_path: Path) -> None:
    model = tmp_path / "the model.onnx"
    model.write_bytes(b"onnx")
    command = Command(recipe("time_onnx_adb"), 2)
    for _ in range(2):  # what was there before is not counted
        assert command.time(model, UNREAD, 0.1) == pytest.approx([0.25, 1.25])
    assert (device / "model.onnx").read_bytes() == b"onnx"


def test_pte_on_a_phone(device: Path, tmp_path: Path) -> None:
    pytest.importorskip("executorch", reason="executorch is not installed (extra `mobile`)")
    model = tmp_path / "the model.pte"
    model.write_bytes(b"pte")
    assert Command(recipe("time_pte_adb"), 2).time(model, UNREAD, 0.1) == [2.5]


@pytest.mark.parametrize("script", ["time_onnx_adb.sh", "time_pte_adb.sh"])
def test_a_phone_that_fails(script: str, device: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.touch()
    command = Command(f"sh export/{script} {{model}} {{threads}}", 3)
    with pytest.raises(BadInput, match=r"exit code [19]:"):  # not the arguments it expects
        command.time(model, UNREAD, 0.1)
    with pytest.raises(BadInput, match=r"No such file"):
        command.time(tmp_path / "missing", UNREAD, 0.1)
