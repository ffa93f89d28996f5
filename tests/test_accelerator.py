"""The benchmark of accelerators runs, tiny, where there is none."""

import runpy
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import accelerator  # noqa: E402
import harness  # noqa: E402


def test_every_check_and_figure_has_a_row() -> None:
    checks, rates, ratios = (table.rows for table in accelerator.main(device="cpu", quick=True))
    assert [row["as expected"] for row in checks] == ["", "yes", "yes", ""]
    assert [row["found"] for row in checks[1:3]] == ["0.0%", "0.00%"]
    assert [row["batch"] for row in rates] == [4, 8]
    assert all(float(row[precision]) > 0 for row in rates for precision in ("fp32", "bf16"))
    assert len(ratios) == 5
    assert ratios[3] == accelerator.row(ratios[3]["what"], 0.0, "at most 0.01", True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_without_a_device_it_ends_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(harness, "tune_process", lambda: None)
    monkeypatch.setattr(sys, "argv", ["accelerator.py"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(BENCHMARKS / "accelerator.py"), run_name="__main__")
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("no device cuda here: ")
