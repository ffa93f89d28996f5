"""Budgets as people write them, and the tables that they name."""

from pathlib import Path

import pytest
from tables import made_up_table

from mobilenas.base.errors import BadInput
from mobilenas.cost.budget import Budget, LatencyLimit, known_tables
from mobilenas.cost.latency import write_table
from mobilenas.cost.titles import cost_title, format_cost, format_limits
from mobilenas.space import load_space

MACRO = load_space("macro")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of latency tables where the command line looks for them."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "latency_tables"


@pytest.mark.parametrize(
    ("text", "device", "ms"),
    [
        ("20ms@phone", "phone", 20.0),
        ("1.5s@phone", "phone", 1500.0),
        ("@phone", "phone", None),
        (" 800us @ a b.json ", "a b.json", 0.8),
        ("1ms@runs/a@b.json", "runs/a@b.json", 1.0),
    ],
)
def test_parse(text: str, device: str, ms: float | None) -> None:
    assert LatencyLimit.parse(text) == LatencyLimit(device, ms)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("20xs@phone", "'20xs' is not a duration: write a number with us, ms or s"),
        ("20@phone", "'20' is not a duration"),
        ("-1ms@phone", "'-1ms' is not a duration"),
        ("20ms", "latency '20ms': write 20ms@DEVICE, or @DEVICE for no limit"),
        ("phone", "latency 'phone': write"),
        ("20ms@", "latency '20ms@': write"),
        ("@", "latency '@': write"),
        ("", "latency '': write"),
    ],
)
def test_what_is_no_latency_is_refused(text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        LatencyLimit.parse(text)


def test_a_file_may_be_in_the_home_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent / "home"))
    file = write_table(folder.parent / "home", made_up_table(MACRO, "three"))
    asked = LatencyLimit.parse("9ms@~/three.json")
    (table,) = Budget(latencies=(asked,)).look_up(MACRO)[0].tables
    assert (table.name, asked.place(table)) == ("three", str(file))


def test_devices_are_looked_up_by_table_device_and_file(folder: Path) -> None:
    write_table(folder, made_up_table(MACRO, "one", device="phone"))
    write_table(folder, made_up_table(MACRO, "two", device="watch"))
    file = write_table(folder.parent, made_up_table(MACRO, "three"))
    asked = (LatencyLimit("watch", 20.0), LatencyLimit("one"), LatencyLimit("three.json", 9.0))
    cost_model, limits = Budget({"flops": 5}, asked).look_up(MACRO)
    assert [table.name for table in cost_model.tables] == ["two", "one", "three"]
    assert limits == {"flops": 5, "latency_ms@two": 20.0, "latency_ms@three": 9.0}
    places = [x.place(t) for x, t in zip(asked, cost_model.tables, strict=True)]
    assert places == ["two", "one", str(file)]


def test_what_cannot_be_looked_up_is_refused(folder: Path) -> None:
    for name, device in (("one", "phone"), ("two", "phone"), ("three", "watch")):
        write_table(folder, made_up_table(MACRO, name, device=device))
    write_table(folder, made_up_table(load_space("digits"), "digits", device="board"))
    for devices, message in (
        (["radio"], "no latency table for device 'radio'; known devices: .*board.*phone.*watch"),
        (["phone"], "device phone has several tables.*: name one of one, two"),
        (["board"], "latency table digits .* lacks"),
        (["none.json"], "no such file: none.json"),
        (["watch", "three"], "latency table three is given twice"),
    ):
        with pytest.raises(BadInput, match=message):
            Budget({}, tuple(LatencyLimit(device) for device in devices)).look_up(MACRO)


def test_known_tables_are_those_that_cover_the_space_at_its_resolution(folder: Path) -> None:
    assert known_tables(MACRO) == []
    spaces = ("macro", "macro:resolution=64", "macro:width=0.5", "digits")
    for i, reference in enumerate(spaces):
        write_table(folder, made_up_table(load_space(reference), f"t{i}"))
    assert [table.name for table in known_tables(MACRO)] == ["t0"]
    assert [table.name for table in known_tables(load_space(spaces[1]))] == ["t1"]


def test_a_table_by_which_a_network_takes_no_time_is_left_out_with_a_word(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`train` has the latencies by all of them in its result."""
    write_table(folder, made_up_table(MACRO, "t0"))
    write_table(folder, made_up_table(MACRO, "t1", overhead_ms=-1e6))
    assert [table.name for table in known_tables(MACRO)] == ["t0"]
    assert "latency table t1: with overhead_ms -1e+06" in caplog.text


def test_a_file_that_is_no_table_is_left_out_with_a_word(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_table(folder, made_up_table(MACRO, "t0", device="phone"))
    (folder / "notes.json").write_text('{"a": 1}')
    assert [table.name for table in known_tables(MACRO)] == ["t0"]
    assert "left out" in caplog.text and "notes.json" in caplog.text
    cost_model, _ = Budget({}, (LatencyLimit("phone", 20.0),)).look_up(MACRO)
    assert [table.name for table in cost_model.tables] == ["t0"]
    with pytest.raises(BadInput, match=r"notes\.json"):
        Budget({}, (LatencyLimit("notes"),)).look_up(MACRO)


def test_a_budget_that_asks_for_nothing_is_none() -> None:
    assert not Budget()
    assert Budget({"flops": 1})
    assert Budget({}, (LatencyLimit("phone"),))


def test_costs_are_written_with_their_units() -> None:
    limits = {"flops": 500e6, "params": 5e6, "memory": 1_204_000, "latency_ms@a.b": 12.3456}
    assert format_limits(limits) == (
        "flops <= 500M and params <= 5M and memory <= 1.204MB and latency@a.b <= 12.35 ms"
    )
    assert format_cost("memory", 12) == "12B"
    assert cost_title("latency_ms@latency_ms@a") == "latency@latency_ms@a"
