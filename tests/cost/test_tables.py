"""Latency tables as files: what is refused, what they cover, and how they are found."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tables import made_up_table

from mobilenas.base.errors import BadInput
from mobilenas.base.resources import resource
from mobilenas.cost import CostModel
from mobilenas.cost.latency import LatencyTable, find_table, list_tables, read_table, write_table
from mobilenas.cost.rows import rows_of
from mobilenas.latency.networks import held_out
from mobilenas.space import Arch, Space, load_space


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_prediction_is_the_sum_of_the_rows(
    small_space: Space, sample: Callable[..., list[Arch]]
) -> None:
    # Rows that take 1 ms a MFLOP: the FLOPs are a second source for every sum.
    table = made_up_table(small_space, overhead_ms=0.5)
    archs = sample(small_space, 20)
    genes = np.array([small_space.encode(arch) for arch in archs])
    expected = 0.5 + CostModel(small_space).flops_batch(genes) / 1e6
    assert np.allclose(table.predict(small_space, genes), expected, rtol=1e-12)


def test_a_file_is_read_back_as_it_was(mixed_space: Space, tmp_path: Path) -> None:
    table = made_up_table(mixed_space)
    assert read_table(write_table(tmp_path, table)) == table


def test_a_table_covers_other_spaces_with_its_rows() -> None:
    # fairnas is s2 with single paths and without kernel 9.
    table = made_up_table(load_space("s2"))
    assert table.covers(load_space("fairnas"))
    narrow = load_space("fairnas:squeeze_excite=0.5")
    assert not table.covers(narrow)
    needed = [key for key in rows_of(narrow).distinct if "-se0.5" in key]
    assert set(table.missing(narrow)) == set(needed)


def test_missing_rows_are_counted_and_named(mixed_space: Space) -> None:
    table = made_up_table(mixed_space)
    gone = list(table.rows)[3]
    rows = {key: row for key, row in table.rows.items() if key != gone}
    with pytest.raises(BadInput, match=f"lacks 1 of {len(table.rows)} rows of space mixed.*{gone}"):
        table.model_copy(update={"rows": rows}).column(mixed_space)


def test_a_head_with_other_classes_is_good_enough(caplog: pytest.LogCaptureFixture) -> None:
    # Data has its own number of classes, and the classifier is a small part of the head.
    caplog.set_level("INFO")
    table, own = made_up_table(load_space("s2")), load_space("s2:num_classes=5")
    genes = own.sample_genes(5, np.random.default_rng(0))
    assert np.array_equal(table.predict(own, genes), table.predict(load_space("s2"), genes))
    CostModel(own, [table])
    told = "head-320x7x7-1280-1000-relu6 is taken for head-320x7x7-1280-5-relu6"
    assert caplog.text.count(told) == 1
    assert not table.covers(load_space("s2:num_classes=5,head.channels=640"))


def test_an_overhead_that_makes_times_negative_is_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    space = load_space("s1")
    table = made_up_table(space).model_copy(update={"overhead_ms": -1e6})
    with pytest.raises(BadInput, match=r"overhead_ms -1e.06.*must be above 0"):
        table.column(space)
    assert not table.fits(space)
    assert caplog.text.rstrip().endswith("must be above 0; it is left out")


def test_another_resolution_is_refused() -> None:
    table = made_up_table(load_space("s1"))
    with pytest.raises(BadInput, match=r"is for 32 px, space s1:resolution=64 has 64 px"):
        table.column(load_space("s1:resolution=64"))


def damaged(change: Callable[[dict[str, Any]], object], space: Space) -> Path:
    data = made_up_table(space, "damaged").model_dump(mode="json")
    change(data)
    path = Path("damaged.json")
    path.write_text(json.dumps(data))
    return path


def first_row(data: dict[str, Any]) -> dict[str, Any]:
    return next(iter(data["rows"].values()))


DAMAGES: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda d: first_row(d).update(ms=-1), r"rows\.stem-.*\.ms: .*greater than or equal to 0"),
    (lambda d: first_row(d).update(ms=float("nan")), r"rows\.stem-.*\.ms: .*finite number"),
    (lambda d: first_row(d).update(median_ms="fast"), r"rows\.stem-.*\.median_ms: .*valid number"),
    (lambda d: first_row(d).pop("count"), r"rows\.stem-.*\.count: Field required"),
    (lambda d: d.update(schema_version=2), "schema_version: Input should be 1"),
    (lambda d: d.update(rows={}), "rows: .*at least 1 item"),
    (lambda d: d.update(dtype="bf16"), "dtype: .*'fp32', 'fp16' or 'int8'"),
    (lambda d: d.update(unit="s"), "unit: there is no such key"),
    (lambda d: d.update(name="../x"), "name: .*match pattern"),
    (lambda d: d.update(name="other"), "name: 'other' is not the name of the file"),
    (lambda d: d.pop("resolution"), "resolution: Field required"),
]


@pytest.mark.parametrize(("change", "message"), DAMAGES)
def test_damage_is_named(
    change: Callable[[dict[str, Any]], object], message: str, mixed_space: Space
) -> None:
    with pytest.raises(BadInput, match=rf"^damaged\.json: {message}"):
        read_table(damaged(change, mixed_space))


def test_a_truncated_file_is_named(mixed_space: Space) -> None:
    path = damaged(lambda d: None, mixed_space)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(BadInput, match=r"damaged\.json is not JSON"):
        read_table(path)


def put(space: Space, name: str, **about: Any) -> LatencyTable:
    table = made_up_table(space, name, **about)
    write_table(Path("latency_tables"), table)
    return table


def test_tables_are_found_by_name_file_and_device(mixed_space: Space) -> None:
    table = put(mixed_space, "phone-int8", device="phone")
    assert find_table("phone-int8", mixed_space) == table
    assert find_table("latency_tables/phone-int8.json", mixed_space) == table
    assert find_table("phone", mixed_space) == table
    assert "phone-int8" in list_tables()


def test_a_device_is_told_apart_by_the_space(mixed_space: Space) -> None:
    other = load_space("digits")
    put(other, "phone-digits", device="phone")
    table = put(mixed_space, "phone-mixed", device="phone")
    assert find_table("phone", mixed_space) == table
    assert find_table("phone", other).name == "phone-digits"


def test_several_tables_of_a_device_are_listed(mixed_space: Space) -> None:
    put(mixed_space, "phone-fp32", device="phone")
    put(mixed_space, "phone-int8", device="phone", dtype="int8")
    with pytest.raises(BadInput, match="several tables: name one of phone-fp32, phone-int8"):
        find_table("phone", mixed_space)


def test_tables_of_a_device_of_which_none_fits_are_listed(mixed_space: Space) -> None:
    for name in ("phone-a", "phone-b"):
        put(mixed_space, name, device="phone")
    message = r"no table of device phone covers space digits at 32 px; it has phone-a \(12 px\), "
    with pytest.raises(BadInput, match=message):
        find_table("phone", load_space("digits"))


def test_an_unknown_device_lists_the_known(mixed_space: Space) -> None:
    put(mixed_space, "phone-fp32", device="phone")
    with pytest.raises(
        BadInput, match=r"no latency table for device 'fone'; known devices: .*phone"
    ):
        find_table("fone", mixed_space)


def test_a_missing_file_is_named(mixed_space: Space) -> None:
    with pytest.raises(BadInput, match=r"no such file: there\.json"):
        find_table("there.json", mixed_space)


def test_the_shipped_tables_are_whole() -> None:
    tables = [read_table(path) for path in resource("latency_tables").glob("*.json")]
    assert {table.space for table in tables} == {"s1", "s2"}
    for table in tables:
        space = load_space(table.space)
        assert set(table.rows) == set(rows_of(space).distinct)
        assert table.check is not None and table.check.networks >= 60
        # What the check was made with is drawn again: none of it was fitted to.
        drawn = held_out(space, table, table.check.networks, table.check.seed)
        assert not set(map(str, drawn)) & set(table.calibration.archs)
