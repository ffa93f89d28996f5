"""The command runtime: what a command may print, and every way in which it goes wrong."""

import re
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mobilenas.base.errors import BadInput
from mobilenas.runtimes.base import Form
from mobilenas.runtimes.command import Command, _milliseconds

UNREAD = np.zeros(0, np.float32)  # a command makes its own input


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file whose path needs quoting."""
    path = tmp_path / "a model's file.onnx"
    path.write_text("not read by these commands")
    return path


def refusal(command: Command, path: Path) -> str:
    """The message of timing a file with a command that goes wrong: one line."""
    with pytest.raises(BadInput) as error:
        command.time(path, UNREAD, 0.1)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_numbers_are_read(model: Path) -> None:
    command = Command("echo 1.5 2; echo 3e-1 # {model}", 1)
    assert command.time(model, UNREAD, 0.1) == [1.5, 2.0, 0.3]


def test_path_and_threads_are_filled_in(model: Path, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    script = tmp_path / "script.py"
    script.write_text(
        "import pathlib, sys\n"
        f"pathlib.Path({str(seen)!r}).write_text('|'.join(sys.argv[1:]))\n"
        "print(7)\n"
    )
    template = f"{sys.executable} {script} {{model}} {{threads}} | awk '{{print $1 / 2}}'"
    assert Command(template, 3).time(model, UNREAD, 0.1) == [3.5]
    assert seen.read_text() == f"{model}|3"


def test_onnx_file_is_written(tmp_path: Path) -> None:
    command = Command("wc -c < {model}", 1)
    path = tmp_path / f"conv{command.suffix}"
    module, image = nn.Conv2d(3, 4, 3).eval(), torch.randn(1, 3, 8, 8)
    path.write_bytes(command.convert(module, image, Form(batch=1), None).files[".onnx"])
    (output,) = ort.InferenceSession(path).run(None, {"image": image.numpy()})
    torch.testing.assert_close(torch.from_numpy(output), module(image))
    assert command.time(path, UNREAD, 0.1) == [path.stat().st_size]


@pytest.mark.parametrize("template", ["sleep 1", "cat {model} {pte}"])
def test_template_has_one_file(template: str) -> None:
    with pytest.raises(BadInput, match=re.escape("{model}") + ".*" + re.escape("{pte}")):
        Command(template, 1)


@pytest.mark.parametrize(
    ("said", "printed"),
    [
        ("", "''"),
        ("hello world", "'hello world'"),
        ("12 ms", "'12 ms'"),
        ("1.5 -2", "'1.5 -2'"),
        ("0", "'0'"),
        ("nan", "'nan'"),
        ("inf", "'inf'"),
        ("2e9", "'2e9'"),
        ("x" * 500, "'" + "x" * 77 + "...'"),
    ],
)
def test_prints_something_else(said: str, printed: str, model: Path) -> None:
    message = refusal(Command(f"echo '{said}' # {{model}}", 1), model)
    assert f"printed {printed}: " in message
    assert "milliseconds" in message


@given(st.lists(st.floats(min_value=1e-6, max_value=1e9), min_size=1))
def test_any_positive_numbers_come_back(times: list[float]) -> None:
    assert _milliseconds("\n".join(map(repr, times))) == times


def test_exit_code(model: Path) -> None:
    failing = Command("echo 5; echo warning >&2; echo 'no device' >&2; exit 3 # {model}", 1)
    assert refusal(failing, model) == "--command ended with exit code 3: no device"
    silent = Command("false # {model}", 1)
    assert refusal(silent, model) == "--command ended with exit code 1: nothing on stderr"


def test_unknown_program(model: Path) -> None:
    message = refusal(Command("no-such-program-here {model}", 1), model)
    assert "exit code 127" in message
    assert "no-such-program-here" in message


def test_time_limit_ends_all_processes(model: Path, tmp_path: Path) -> None:
    late = tmp_path / "late"
    template = f"(sleep 3; touch {late}) & sleep 60; echo {{model}}"
    start = time.monotonic()
    message = refusal(Command(template, 1, time_limit=0.3), model)
    assert "longer than 0.3 s" in message
    assert time.monotonic() - start < 2.5, "too slow a machine for this test"
    time.sleep(start + 3.5 - time.monotonic())
    assert not late.exists()


def test_what_it_leaves_running_is_not_waited_for(model: Path) -> None:
    start = time.monotonic()
    assert Command("sleep 20 & echo 4 # {model}", 1).time(model, UNREAD, 0.1) == [4.0]
    assert time.monotonic() - start < 10
