"""What benchmarks have in common, on cases whose figures are known, and their command lines."""

import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import harness  # noqa: E402
from harness import Case, Table  # noqa: E402


def figures(rate: float, log: str) -> dict[str, float]:
    """A case, which notes that it ran, and whether torch came before what tunes a process."""
    with Path(log).open("a") as file:
        file.write(f"{rate} {'torch' in sys.modules}\n")
    return {"images/s": rate, "s": 1 / rate}


def test_cases_run_in_turn_in_processes_of_their_own(tmp_path: Path) -> None:
    log = tmp_path / "log"
    cases = [Case(f"at {rate}", figures, {"rate": rate, "log": str(log)}) for rate in (4.0, 10.0)]
    table = harness.compare(cases, rounds=2)
    assert log.read_text().split("\n")[:4] == ["4.0 False", "10.0 False"] * 2
    assert [(row["figure"], row["case"], row["ratio"], row["n"]) for row in table.rows] == [
        ("images/s", "at 4.0", 1.0, 2),
        ("images/s", "at 10.0", 2.5, 2),
        ("s", "at 4.0", 1.0, 2),
        ("s", "at 10.0", 0.4, 2),
    ]
    assert "| images/s | at 10.0 | 10.0 (10.0 to 10.0) | 2.50 | 2 |" in table.markdown()


def test_a_table_writes_each_column_in_its_format() -> None:
    rows = [{"top-1": 0.5, "ms": harness.mean_sd([1.0, 3.0])}, {"top-1": None, "n": 2}]
    text = Table(rows, {"top-1": ".1%"}, "Two rows").markdown()
    assert text.splitlines() == [
        "Two rows",
        "",
        "| top-1 | ms | n |",
        "| --- | --- | --- |",
        "| 50.0% | 2.00 ± 1.41 |  |",
        "|  |  | 2 |",
    ]


@pytest.mark.parametrize(
    "values, words", [([1.0, 2.0, 9.0], "2.00 (1.00 to 9.00)"), ([120.4], "120 (120 to 120)")]
)
def test_three_digits(values: list[float], words: str) -> None:
    assert harness.median_range(values) == words


SCRIPTS = sorted(
    path.stem for path in BENCHMARKS.glob("*.py") if "harness.main(" in path.read_text()
)


@pytest.mark.parametrize("name", SCRIPTS)
def test_help(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every script imports and has a command line."""
    if name == "detection":
        pytest.importorskip("mmdet", reason="needs pip install '.[detect]'")
    monkeypatch.setattr(harness, "tune_process", lambda: None)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(BENCHMARKS / f"{name}.py"), run_name="__main__")
    assert stop.value.code == 0
    assert "Usage" in capsys.readouterr().out
