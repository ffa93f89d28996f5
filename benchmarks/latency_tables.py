"""What latency tables are worth.

methods  ways to make rows of block times, compared on networks that none of them was fitted to. It
         takes the timings of `latency build` and `latency check`; nothing is timed. Each way is
         fitted to some of the networks timed for the table (five draws where not all are taken)
repeat   how far two builds of one table are apart: rows, and predictions of 1,000 archs
search   what a latency budget finds that a FLOPs budget misses: two searches, then their networks
         timed. Both evaluate as many archs with the same supernet; the space of the costs may be a
         larger form of the supernet's (other width, resolution, classes), the archs are the same

    python benchmarks/latency_tables.py methods TABLE.json runs/latency/NAME runs/latency/NAME-check
    python benchmarks/latency_tables.py repeat first.json second.json
    python benchmarks/latency_tables.py search --supernet runs/small-s2 --space s2 \
        --table epyc-zen5-executorch-fp32-s2 --flops 300M --out runs/search-latency
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import harness
import numpy as np
import typer
from harness import PathOption, Table, TextOption
from numpy.typing import NDArray
from scipy.stats import spearmanr

from mobilenas.base.units import parse_size
from mobilenas.cost import CostModel
from mobilenas.cost.latency import find_table, read_table
from mobilenas.cost.predict import calibrate
from mobilenas.cost.rows import row_counts, row_flops, row_groups
from mobilenas.cost.titles import latency_cost
from mobilenas.evaluate.evaluator import SupernetEvaluator
from mobilenas.latency import build, check
from mobilenas.latency.measure import TimingLog
from mobilenas.latency.timer import Host, make_timer
from mobilenas.report.plots import BUDGET, FRONT, new_figure, save_png
from mobilenas.runs.folder import is_run
from mobilenas.search import Evaluation, Measured, NSGA2Search, Problem
from mobilenas.space import Arch, load_space
from mobilenas.stages.search_run import SearchRun
from mobilenas.train.supernets import open_supernet_run

Floats = NDArray[np.float64]
File = Annotated[Path, typer.Argument()]
DRAWS = 5


def methods(table: File, run: File, checked: File) -> Iterator[Table]:
    """Ways to make rows of block times, on the networks of a check."""
    made = read_table(table)
    space, keys = load_space(made.space), list(made.rows)
    built, held = TimingLog(run / build.TIMINGS), TimingLog(checked / check.TIMINGS)
    groups, of_row, timed = row_groups(keys), row_flops(space), built.timings()
    flops = np.array([of_row[key] for key in keys], dtype=float)
    times = np.array([timed[key].median_ms for key in keys])

    def load(log: TimingLog, names: list[str]) -> tuple[Floats, Floats]:
        """Counts (n, rows) and ms (n,) of networks, at the speed that the control had first."""
        counted = [row_counts(space, space.parse(name)) for name in names]
        counts = np.array([[count[key] for key in keys] for count in counted], dtype=float)
        timings, control = log.timings(), log.control()
        assert control is not None
        ms = np.array([timings[name].median_ms for name in names])
        return counts, ms / control.median_ms * made.control_ms

    counts, ms = load(built, list(made.calibration.archs))
    held_counts, held_ms = load(held, list(held.timings()))

    def one_factor(counts: Floats, ms: Floats) -> Floats:
        return held_counts @ times * np.median(ms / (counts @ times))

    def fit_to_flops(counts: Floats, ms: Floats) -> Floats:
        fit = calibrate(counts, ms, flops, flops, groups)
        return fit.overhead_ms + held_counts @ fit.ms

    def fit(counts: Floats, ms: Floats) -> Floats:
        fit = calibrate(counts, ms, times, flops, groups)
        return fit.overhead_ms + held_counts @ fit.ms

    sizes = [*(n for n in (10, 25, 50, 100, 200) if n < len(ms)), len(ms)]
    rows: list[dict[str, Any]] = []
    for way in (one_factor, fit_to_flops, fit):
        rows.append({"way": way.__name__.replace("_", " ")})
        for n in sizes:
            draws = range(DRAWS if n < len(ms) else 1)
            chosen = [np.random.default_rng(i).permutation(len(ms))[:n] for i in draws]
            errors = [way(counts[some], ms[some]) / held_ms - 1 for some in chosen]
            rows[-1][str(n)] = np.mean(np.abs(errors))
    plain = np.mean(np.abs(held_counts @ times / held_ms - 1))
    title = (
        f"{made.name}, fitted to n networks: MAPE on {len(held_ms)} others, drift of the machine"
    )
    title += f" taken out. The sum of the blocks: {plain:.1%}"
    yield Table(rows, dict.fromkeys(map(str, sizes), ".2%"), title)


def repeat(first: File, second: File) -> Iterator[Table]:
    """Two builds of one table."""
    one, other = read_table(first), read_table(second)
    space, keys = load_space(one.space), list(one.rows)
    genes = space.sample_genes(1000, np.random.default_rng(0))
    values = {
        "control network": [np.array([table.control_ms]) for table in (one, other)],
        "predictions": [table.predict(space, genes) for table in (one, other)],
    }
    for title, field in (("rows timed", "median_ms"), ("rows as fitted", "ms")):
        values[title] = [
            np.array([getattr(table.rows[key], field) for key in keys]) for table in (one, other)
        ]
    rows = []
    for title, (before, after) in values.items():
        change = after / before
        spread = np.abs(change / np.median(change) - 1)
        half, most, largest = np.quantile(spread, (0.5, 0.95, 1.0))
        row = {"": title, "all": np.median(change) - 1}
        rows.append(row | {"half": half, "95 %": most, "the most": largest})
    rank = spearmanr(*values["predictions"]).statistic
    title = f"{one.name}: {len(keys)} rows, 1000 archs; change of all, and beyond that of half of "
    title += f"them, 95 % and the most; Spearman of the predictions: {rank:.4f}"
    yield Table(rows, {"all": "+.1%", "half": ".1%", "95 %": ".1%", "the most": ".1%"}, title)


def search(
    supernet: PathOption,
    space: TextOption,
    table: TextOption,
    flops: TextOption,
    population: int = 20,
    generations: int = 15,
    seed: int = 0,
    out: Path = Path("runs/search-latency"),
) -> Iterator[Table]:
    """What searches under FLOPs and under latency find, timed."""
    whole = load_space(space)
    made = find_table(table, whole)
    cost_model, latency = CostModel(whole, [made]), latency_cost(made.name)
    evaluator = SupernetEvaluator(open_supernet_run(supernet))

    def front(cost: str, limit: float, folder: str) -> list[Evaluation]:
        problem = Problem(cost_model, ("accuracy", cost), {cost: limit})
        search = NSGA2Search(problem, population=population, generations=generations, seed=seed)
        there = is_run(out / folder, "evolve")
        run = SearchRun.start(search, out / folder, evaluator=evaluator.describe(), resume=there)
        return run.explore(lambda archs: list(map(Measured, evaluator(archs)))).front

    found = {"flops": front("flops", parse_size(flops), "flops")}
    # As many milliseconds as the median of what that search found takes.
    limit = float(np.median([each.costs[latency] for each in found["flops"]]))
    found["latency"] = front(latency, limit, "latency")
    archs: list[Arch] = list(dict.fromkeys(x.arch for front in found.values() for x in front))
    timer = make_timer(made.runtime, dtype=made.dtype, threads=1, command=None)
    host = Host(timer, out / "timings/graphs")
    times, _ = check.time_networks(whole, archs, host, out / "timings", batch=1)
    measured = dict(zip(archs, times.tolist(), strict=True))
    rows = [
        {
            "found under": name,
            "accuracy": each.accuracy,
            "MFLOPs": each.costs["flops"] / 1e6,
            "predicted ms": each.costs[latency],
            "measured ms": measured[each.arch],
            "arch": str(each.arch),
        }
        for name, front in found.items()
        for each in front
    ]
    formats = {"accuracy": ".2%", "MFLOPs": ".1f", "predicted ms": ".2f", "measured ms": ".2f"}
    yield Table(rows, formats, f"latency budget: {limit:.2f} ms")
    plot(out / "result.png", rows, made.name)


def plot(path: Path, rows: list[dict[str, Any]], table: str) -> None:
    """Accuracy against measured latency of what each search found."""
    figure, axes = new_figure(6.4, 4.2)
    for search, colour in (("flops", BUDGET), ("latency", FRONT)):
        found = [row for row in rows if row["found under"] == search]
        label = f"found under a {search.replace('flops', 'FLOPs')} budget"
        ms, accuracy = ([row[key] for row in found] for key in ("measured ms", "accuracy"))
        axes.scatter(ms, [100 * value for value in accuracy], s=30, color=colour, label=label)
    axes.set_xlabel(f"measured latency (ms), {table}")
    axes.set_ylabel("accuracy of the proxy (%)")
    axes.legend(frameon=False, loc="lower right")
    save_png(path, figure)


if __name__ == "__main__":
    harness.main(methods, repeat, search)
