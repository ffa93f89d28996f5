"""Transfer: what it recovers exactly, that units do not matter, and the CSV files it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from typer.testing import CliRunner

from mobilenas.base.errors import BadInput
from mobilenas.cli.latency import latency_app
from mobilenas.cost import CostModel
from mobilenas.cost.latency import Calibration, LatencyTable, Row, read_table, write_table
from mobilenas.cost.predict import calibrate
from mobilenas.cost.rows import rows_of
from mobilenas.latency.transfer import (
    Timing,
    Transfer,
    read_timings,
    transfer_table,
)
from mobilenas.space import Arch, Space, load_space

SPACE = load_space("macro")
GENES = SPACE.sample_genes(200, np.random.default_rng(1))
ARCHS = [SPACE.decode(row) for row in GENES]
BLOCKS = (GENES > 0).sum(axis=1)  # candidate 0 is the identity


def table_of(space: Space, seed: int = 0, overhead_ms: float = 0.5) -> LatencyTable:
    rng = np.random.default_rng(seed)
    times = {key: float(rng.uniform(0.2, 2)) for key in rows_of(space).distinct}
    return LatencyTable(
        name="old-phone",
        device="old",
        processor="p",
        runtime="r",
        runtime_version="1",
        threads=1,
        dtype="fp32",
        batch=1,
        resolution=space.resolution,
        space=space.name,
        date="2026-01-01",
        source="drawn at random",
        overhead_ms=overhead_ms,
        calibration=Calibration(method="none"),
        rows={k: Row(ms=t, median_ms=t, spread_ms=0, count=9) for k, t in times.items()},
    )


SOURCE = table_of(SPACE)


def transfer(times: np.ndarray, n: int, holdout: int | None = 0, seed: int = 0) -> Transfer:
    timings = [Timing(arch, float(ms)) for arch, ms in zip(ARCHS[:n], times[:n], strict=True)]
    return transfer_table(SOURCE, SPACE, timings, device="new", holdout=holdout, seed=seed)


@pytest.mark.parametrize("factor", [0.01, 1, 300])
def test_a_device_that_is_only_faster_or_slower_is_recovered(factor: float) -> None:
    times = factor * SOURCE.predict(SPACE, GENES)
    made = transfer(times, 10).table
    error = np.abs(made.predict(SPACE, GENES) / times - 1)
    assert error.mean() < 0.02
    assert made.calibration.loo_mape is not None
    assert made.calibration.loo_mape < 0.05


def test_a_device_that_pays_by_flops_and_blocks_is_found_through_a_table_that_does_not() -> None:
    times = 1 + CostModel(SPACE).flops_batch(GENES) / 5e6 + 2.0 * BLOCKS
    scaled = SOURCE.predict(SPACE, GENES)
    predicted = transfer(times, 15).table.predict(SPACE, GENES)
    found, before = spearmanr(predicted, times).statistic, spearmanr(scaled, times).statistic
    assert found > 0.98
    assert before < found - 0.1
    assert np.abs(predicted / times - 1).mean() < 0.05


def test_the_source_helps_where_its_device_is_alike() -> None:
    """Against a table whose rows are all equal, on a device whose rows are those times noise."""
    rng = np.random.default_rng(3)
    alike = {
        key: row.model_copy(update={"ms": row.ms * rng.uniform(0.8, 1.25)})
        for key, row in SOURCE.rows.items()
    }
    times = SOURCE.model_copy(update={"rows": alike}).predict(SPACE, GENES)
    flat = {key: row.model_copy(update={"ms": 1.0}) for key, row in SOURCE.rows.items()}
    timings = [Timing(arch, float(ms)) for arch, ms in zip(ARCHS[:10], times[:10], strict=True)]
    errors = []
    for source in (SOURCE, SOURCE.model_copy(update={"rows": flat})):
        made = transfer_table(source, SPACE, timings, device="new", holdout=0, seed=0).table
        errors.append(np.abs(made.predict(SPACE, GENES) / times - 1).mean())
    assert errors[0] < 0.6 * errors[1]


@settings(max_examples=15, deadline=None)
@given(unit=st.floats(1e-3, 1e3), other=st.floats(1e-3, 1e3), seed=st.integers(0, 99))
def test_units_do_not_matter(unit: float, other: float, seed: int) -> None:
    """Times in other units, on either device, give the same fit in those units."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 3, size=(8, 12)).astype(float)
    source, flops = rng.uniform(0.1, 3, size=(2, 12))
    measured = counts @ (source * rng.uniform(0.7, 1.4, 12)) + 1
    groups = np.arange(12) % 4
    fit = calibrate(counts, measured, source, flops, groups)
    again = calibrate(counts, unit * measured, other * source, 1e6 * flops, groups)
    assert again.ms == pytest.approx(unit * fit.ms, rel=1e-4, abs=1e-6 * unit)
    assert again.overhead_ms == pytest.approx(unit * fit.overhead_ms, rel=1e-4, abs=1e-6 * unit)
    assert again.loo_mape == pytest.approx(fit.loo_mape, rel=1e-4)


def test_held_out_networks_do_not_touch_the_table() -> None:
    times = SOURCE.predict(SPACE, GENES) * 2
    first = transfer(times, 25, holdout=None)
    assert first.held_out == 5
    assert set(first.figures) == {"table", "source table", "flops"}
    used = set(first.table.calibration.archs)
    assert len(used) == 20
    changed = np.where([str(arch) in used for arch in ARCHS], times, 50 * times)
    second = transfer(changed, 25, holdout=None)
    assert second.table == first.table
    assert second.figures["table"].mape > 0.9
    assert transfer(times, 20, holdout=None).held_out == 0


def test_the_table_says_where_it_comes_from() -> None:
    made = transfer(2 * SOURCE.predict(SPACE, GENES), 10).table
    assert (made.name, made.device) == ("new-from-old-phone", "new")
    assert "old-phone" in made.source
    assert "10 timed networks" in made.source
    assert made.calibration.archs == tuple(str(arch) for arch in ARCHS[:10])
    assert made.covers(SPACE)
    assert all(row.flags == ("transferred",) for row in made.rows.values())


def test_times_that_no_table_fits_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    times = SOURCE.predict(SPACE, GENES)
    transfer(times, 10)
    assert not caplog.records
    transfer(np.random.default_rng(0).permutation(times) ** 3, 10)
    assert "old-phone does not fit" in caplog.text


def test_it_is_said_where_the_cheapest_networks_would_take_no_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    times = SOURCE.predict(SPACE, GENES)
    dear = np.argsort(times)[-10:]
    least = times[dear].min()
    timings = [Timing(ARCHS[i], float(times[i] - 0.9 * least)) for i in dear]
    transfer_table(SOURCE, SPACE, timings, device="new", holdout=0, seed=0)
    assert "it must be above 0" in caplog.text
    assert f"time some of the cheapest networks of space {SPACE.name} too" in caplog.text


def test_too_few_networks_bad_names_and_foreign_spaces_are_refused() -> None:
    times = SOURCE.predict(SPACE, GENES)
    with pytest.raises(BadInput, match="--holdout 2: at least 3 networks, or 0"):
        transfer(times, 10, holdout=2)
    with pytest.raises(BadInput, match="--holdout 6 of 10 networks leaves 4"):
        transfer(times, 10, holdout=6)
    timings = [Timing(arch, 1.0) for arch in ARCHS[:10]]
    with pytest.raises(BadInput, match="device 'my phone'"):
        transfer_table(SOURCE, SPACE, timings, device="my phone", holdout=0, seed=0)
    with pytest.raises(BadInput, match=r"--device 'phone\.json'"):  # which would be a file later
        transfer_table(SOURCE, SPACE, timings, device="phone.json", holdout=0, seed=0)
    other = table_of(load_space("digits"))
    with pytest.raises(BadInput, match="lacks"):
        transfer_table(other, SPACE, timings, device="new", holdout=0, seed=0)


def write_csv(path: Path, rows: list[tuple[Arch | str, object]], header: str = "arch,ms") -> Path:
    path.write_text("\n".join([header, *(f"{arch},{ms}" for arch, ms in rows)]) + "\n")
    return path


GOOD = [(arch, 3.5 + i) for i, arch in enumerate(ARCHS[:6])]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (("e9k3", 1.0), ["line 8", "arch has 1 blocks"]),
        (("e6k9" + "_id" * 7, 1.0), ["line 8", "block 1", "e6k9"]),
        (("not an arch", 1.0), ["line 8", "'not an arch'"]),
        ((ARCHS[7], "nan"), ["line 8", "nan ms"]),
        ((ARCHS[7], "inf"), ["line 8", "inf ms"]),
        ((ARCHS[7], -2.0), ["line 8", "-2.0 ms"]),
        ((ARCHS[7], 0), ["line 8", "above 0"]),
        ((ARCHS[7], "fast"), ["line 8", "'fast' is not a number"]),
        ((ARCHS[7], "1,2"), ["line 8", "two values"]),
        ((ARCHS[2], 9.0), ["line 8", "is in line 4 too"]),
    ],
)
def test_bad_rows_are_named(
    row: tuple[Arch | str, object], words: list[str], tmp_path: Path
) -> None:
    path = write_csv(tmp_path / "times.csv", [*GOOD, row])
    with pytest.raises(BadInput) as refused:
        read_timings(path, SPACE)
    assert "\n" not in str(refused.value)
    assert all(word in str(refused.value) for word in [str(path), *words]), refused.value


def test_a_space_of_other_classes_is_fitted() -> None:
    own = load_space("macro:num_classes=7")
    timings = [Timing(arch, float(ms)) for arch, ms in zip(ARCHS[:8], range(1, 9), strict=True)]
    table = transfer_table(SOURCE, own, timings, device="new", holdout=0, seed=0).table
    assert table.covers(own)


def test_bad_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "times.csv"
    with pytest.raises(BadInput, match="no such file"):
        read_timings(path, SPACE)
    with pytest.raises(BadInput, match="line 1: the columns are arch,ms"):
        read_timings(write_csv(path, GOOD, header="network,ms"), SPACE)
    with pytest.raises(BadInput, match="has 4 networks; at least 5"):
        read_timings(write_csv(path, GOOD[:4]), SPACE)
    path.write_text("")
    with pytest.raises(BadInput, match="line 1"):
        read_timings(path, SPACE)
    path.write_bytes(b"arch,ms\n\xff\xfe\n")
    with pytest.raises(BadInput, match="no text file"):
        read_timings(path, SPACE)


def test_the_command(tmp_path: Path) -> None:
    source = write_table(tmp_path, SOURCE)
    times = 2 * SOURCE.predict(SPACE, GENES)
    csv = write_csv(tmp_path / "times.csv", list(zip(ARCHS[:25], times[:25], strict=True)))
    arguments = ["transfer", f"--table={source}", "--space=macro", f"--timings={csv}"]
    arguments += ["--device=new", f"--tables={tmp_path}"]
    printed = CliRunner().invoke(latency_app, [*arguments, "--json"])
    assert printed.exit_code == 0
    result = json.loads(printed.stdout)
    assert (result["table"], result["networks"], result["held_out"]) == (
        "new-from-old-phone",
        20,
        5,
    )
    assert result["figures"]["table"]["mape"] < 0.02
    made = read_table(Path(result["file"]))
    assert made.calibration.loo_mape == result["loo_mape"]
    assert "held-out" in CliRunner().invoke(latency_app, arguments).stdout
    shown = CliRunner().invoke(latency_app, [*arguments, "--holdout=0"]).stdout
    assert "no network was held out" in shown
