"""Ways to make rows of block times, compared on networks that none of them was fitted to.

Takes the timings of `latency build` and `latency check`; nothing is timed here. Each way is fitted
to some of the networks that were timed for the table (five draws where not all are taken).

    python benchmarks/latency_methods.py TABLE.json runs/latency/NAME runs/latency/NAME-check
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobilenas.cost.latency import read_table
from mobilenas.cost.predict import calibrate
from mobilenas.cost.rows import row_counts, row_flops
from mobilenas.latency import build, check
from mobilenas.latency.measure import TimingLog
from mobilenas.space import load_space

Floats = NDArray[np.float64]
DRAWS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("check", type=Path)
    options = parser.parse_args()
    table = read_table(options.table)
    space, keys = load_space(table.space), list(table.rows)
    built = TimingLog(options.run / build.TIMINGS)
    checked = TimingLog(options.check / check.TIMINGS)
    groups, of_row = build.row_groups(keys), row_flops(space)
    flops = np.array([of_row[key] for key in keys], dtype=float)
    alone = np.array([built.timings()[key].median_ms for key in keys])

    def load(log: TimingLog, names: list[str]) -> tuple[Floats, Floats]:
        """Counts (n, rows) and ms (n,) of networks, in multiples of the control's time."""
        counted = [row_counts(space, space.parse(name)) for name in names]
        counts = np.array([[count[key] for key in keys] for count in counted], dtype=float)
        timings, control = log.timings(), log.control()
        assert control is not None
        ms = np.array([timings[name].median_ms for name in names])
        return counts, ms / control.median_ms * table.control_ms

    counts, ms = load(built, list(table.calibration.archs))
    held_counts, held_ms = load(checked, list(checked.timings()))

    def one_factor(counts: Floats, ms: Floats) -> Floats:
        return held_counts @ alone * np.median(ms / (counts @ alone))

    def without_times(counts: Floats, ms: Floats) -> Floats:
        fit = calibrate(counts, ms, flops, flops, groups)
        return fit.overhead_ms + held_counts @ fit.ms

    def fitted(counts: Floats, ms: Floats) -> Floats:
        fit = calibrate(counts, ms, alone, flops, groups)
        return fit.overhead_ms + held_counts @ fit.ms

    print(f"{table.name}: {len(held_ms)} networks held out")
    print("drift between build and check is taken out by the control network")
    _print("blocks alone", 0, [check.figures(held_counts @ alone, held_ms)])
    sizes = [n for n in (10, 25, 50, 100, 200) if n < len(ms)]
    for way in (one_factor, without_times, fitted):
        for n in [*sizes, len(ms)]:
            found = []
            for draw in range(DRAWS if n < len(ms) else 1):
                chosen = np.random.default_rng(draw).permutation(len(ms))[:n]
                found.append(check.figures(way(counts[chosen], ms[chosen]), held_ms))
            _print(way.__name__.replace("_", " "), n, found)


def _print(way: str, n: int, found: list[check.Figures]) -> None:
    mape, within, rank = (
        np.mean([getattr(figures, field) for figures in found])
        for field in ("mape", "within_5_percent", "spearman")
    )
    print(
        f"{way:16} {n:4} networks  MAPE {100 * mape:5.2f} %  within 5 %: {100 * within:5.1f} %"
        f"  Spearman {rank:.4f}"
    )


if __name__ == "__main__":
    main()
