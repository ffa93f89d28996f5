"""What a latency budget finds that a FLOPs budget misses: two searches, then their networks timed.

Both searches evaluate the same number of archs with the same supernet; the space of the costs may
be a larger form of the supernet's (other width, resolution, classes), the archs are the same.

    python benchmarks/search_latency.py --supernet runs/small-s2 --space s2 \
        --table epyc-zen5-executorch-fp32-s2 --flops 300M --out runs/search-latency
"""

import argparse
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mobilenas.train.run import open_run

from mobilenas.base.files import write_json
from mobilenas.base.units import parse_size
from mobilenas.cost import CostModel
from mobilenas.cost.latency import find_table
from mobilenas.cost.titles import latency_cost
from mobilenas.evaluate.evaluator import SupernetEvaluator
from mobilenas.latency.check import time_networks
from mobilenas.latency.timer import make_timer
from mobilenas.report.plots import BUDGET, FRONT, new_figure, save_png
from mobilenas.search import evolve
from mobilenas.search.evolve import Evaluation
from mobilenas.space import load_space


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--supernet", type=Path, required=True)
    parser.add_argument("--space", required=True)
    parser.add_argument("--table", required=True)
    parser.add_argument("--flops", type=parse_size, required=True)
    parser.add_argument("--population", type=int, default=20)
    parser.add_argument("--generations", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)

    space = load_space(options.space)
    table = find_table(options.table, space)
    cost_model = CostModel(space, [table])
    latency = latency_cost(table.name)
    evaluator = SupernetEvaluator(open_run(options.supernet))

    def search(cost: str, limit: float) -> list[Evaluation]:
        result = evolve(
            space,
            evaluator,
            cost_model,
            run=options.out / cost.partition("@")[0],
            objectives=("accuracy", cost),
            limits={cost: limit},
            population=options.population,
            generations=options.generations,
            seed=options.seed,
            evaluator=evaluator.describe(),
            resume=True,
        )
        return result.front

    by_flops = search("flops", options.flops)
    # As many milliseconds as the median of what that search found takes.
    limit = float(np.median([found.costs[latency] for found in by_flops]))
    by_latency = search(latency, limit)

    archs = list(dict.fromkeys(found.arch for found in [*by_flops, *by_latency]))
    timer = make_timer(table.runtime, dtype=table.dtype, threads=1, command=None)
    times, _ = time_networks(space, archs, timer, options.out / "timings", batch=1)
    measured = dict(zip(archs, times.tolist(), strict=True))
    rows = [
        {"search": name, **found.row(), "measured_ms": measured[found.arch]}
        for name, front in (("flops", by_flops), ("latency", by_latency))
        for found in front
    ]
    write_json(options.out / "result.json", {"latency_limit_ms": limit, "rows": rows})
    plot(options.out / "result.png", rows, table.name)
    for row in rows:
        print(
            f"{row['search']:8} {100 * row['accuracy']:6.2f} %  {row['flops'] / 1e6:6.1f}M FLOPs"
            f"  {row[latency]:7.2f} ms predicted  {row['measured_ms']:7.2f} ms measured"
            f"  {row['arch']}"
        )
    print(f"latency budget: {limit:.2f} ms")


def plot(path: Path, rows: list[dict[str, Any]], table: str) -> None:
    """Accuracy against measured latency of what each search found."""
    figure, axes = new_figure(6.4, 4.2)
    for search, colour, label in (
        ("flops", BUDGET, "found under a FLOPs budget"),
        ("latency", FRONT, "found under a latency budget"),
    ):
        found = [row for row in rows if row["search"] == search]
        ms, accuracy = ([row[key] for row in found] for key in ("measured_ms", "accuracy"))
        axes.scatter(ms, [100 * value for value in accuracy], s=30, color=colour, label=label)
    axes.set_xlabel(f"measured latency (ms), {table}")
    axes.set_ylabel("accuracy of the proxy (%)")
    axes.legend(frameon=False, loc="lower right")
    save_png(path, figure)


if __name__ == "__main__":
    main()
