"""How far two builds of one latency table are apart: rows, and predictions of 1,000 archs.

python benchmarks/latency_repeat.py first.json second.json
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from mobilenas.cost.latency import read_table
from mobilenas.space import load_space


def moved(first: NDArray[np.float64], second: NDArray[np.float64]) -> str:
    """Relative change in words: its median, and quantiles of what is left without it."""
    change = second / first - 1
    centre = float(np.median(change))
    spread = np.abs((1 + change) / (1 + centre) - 1)
    middle, most, largest = (100 * np.quantile(spread, q) for q in (0.5, 0.95, 1.0))
    return (
        f"all by {100 * centre:+.1f} %; beyond that half of them by less than {middle:.1f} %,"
        f" 95 % by less than {most:.1f} %, the most by {largest:.1f} %"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    options = parser.parse_args()
    first, second = read_table(options.first), read_table(options.second)
    space = load_space(first.space)
    keys = list(first.rows)

    def column(field: str) -> list[NDArray[np.float64]]:
        return [np.array([getattr(t.rows[k], field) for k in keys]) for t in (first, second)]

    genes = space.sample_genes(1000, np.random.default_rng(0))
    before, after = first.predict(space, genes), second.predict(space, genes)
    assert first.control_ms and second.control_ms
    print(f"{first.name}: {len(keys)} rows, 1000 archs")
    print(f"control network: {first.control_ms:.3f} ms, then {second.control_ms:.3f} ms")
    print(f"rows alone       {moved(*column('median_ms'))}")
    print(f"rows as fitted   {moved(*column('ms'))}")
    print(f"predictions      {moved(before, after)}")
    print(f"Spearman of the two predictions: {spearmanr(before, after).statistic:.4f}")


if __name__ == "__main__":
    main()
