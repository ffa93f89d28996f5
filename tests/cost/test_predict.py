"""Fitting rows to networks: against refits, against a known truth, and what is refused."""

from typing import Any

import numpy as np
import pytest

from mobilenas.cost.predict import calibrate, ridge


def made_up(n: int, noise: float, seed: int = 0) -> tuple[Any, ...]:
    """Arguments of `calibrate`: 6 blocks of 2 shapes with 4 candidates each, factors by shape."""
    rng = np.random.default_rng(seed)
    alone = rng.uniform(0.5, 2.0, 8)
    groups = np.repeat([0, 1], 4)
    truth = alone * np.array([1.3, 0.8])[groups] * rng.uniform(0.9, 1.1, 8)
    counts = np.zeros((n, 8))
    for block in range(6):
        chosen = 4 * (block % 2) + rng.integers(0, 4, n)
        counts[np.arange(n), chosen] += 1
    measured = (0.4 + counts @ truth) * (1 + noise * rng.standard_normal(n))
    return counts, measured, alone, rng.uniform(0.5, 2.0, 8), groups


def test_leave_one_out_is_that_of_refits() -> None:
    rng = np.random.default_rng(0)
    design, penalties = rng.uniform(0, 1, (12, 5)), np.array([0.1, 0.2, 0.3, 0.1, 0.5])
    _, errors = ridge(design, penalties)
    for i in range(12):
        weights, _ = ridge(np.delete(design, i, axis=0), penalties)
        assert errors[i] == pytest.approx(1 - design[i] @ weights, abs=1e-9)


def test_networks_that_were_not_seen_are_predicted() -> None:
    counts, measured, alone, flops, groups = made_up(200, noise=0.01)
    fit = calibrate(counts[:100], measured[:100], alone, flops, groups)
    exact = made_up(200, noise=0)[1][100:]
    error = np.abs(fit.overhead_ms + counts[100:] @ fit.ms - exact) / exact
    factor = np.mean(measured[:100]) / np.mean(counts[:100] @ alone)
    one_factor = np.abs(factor * counts[100:] @ alone - exact) / exact
    assert error.mean() < 0.005 < one_factor.mean() / 4
    assert 0.005 < fit.loo_mape < 0.015  # the noise is seen, not fitted away


def test_few_networks_do_not_spoil_the_rows() -> None:
    counts, measured, alone, flops, groups = made_up(110, noise=0.02)
    fit = calibrate(counts[:10], measured[:10], alone, flops, groups)
    exact = made_up(110, noise=0)[1][10:]
    error = np.abs(fit.overhead_ms + counts[10:] @ fit.ms - exact) / exact
    raw = np.abs(counts[10:] @ alone - exact) / exact
    assert error.mean() < 0.08 and error.mean() < 0.75 * raw.mean()


def test_no_row_is_below_zero(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    counts, measured, alone, flops, groups = made_up(60, noise=0.01)
    measured = measured - 2.5 * counts[:, 0]  # networks are the faster for having the first row
    assert measured.min() > 0
    fit = calibrate(counts, measured, alone, flops, groups)
    assert fit.ms[0] == 0 and (fit.ms[1:] > 0).all()
    assert f"1 of {len(fit.ms)} rows are fitted below 0 ms" in caplog.text


@pytest.mark.parametrize("n", [0, 4])
def test_too_few_networks_are_refused(n: int) -> None:
    counts, measured, alone, flops, groups = made_up(10, noise=0)
    with pytest.raises(ValueError, match="at least 5 networks"):
        calibrate(counts[:n], measured[:n], alone, flops, groups)


def test_times_of_zero_are_refused() -> None:
    counts, measured, alone, flops, groups = made_up(10, noise=0)
    with pytest.raises(ValueError, match="above 0"):
        calibrate(counts, np.where(np.arange(10) == 3, 0, measured), alone, flops, groups)
