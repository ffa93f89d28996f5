"""What a few stand-alone accuracies bring to a search: on NAS-Bench-Macro (Su et al. 2021), whose
published accuracies take the place of the trainings.

ranking  how well the rest is ordered from 8 to 100 accuracies of archs drawn at random; of rankings
         of several supernets by `mobilenas rank`
rounds   `evolve --rounds` for the best arch within a budget, against searches that train as many
         archs and have no supernet. What the supernet says of all networks is measured first

    python benchmarks/predictor.py ranking RUN/rank RUN/rank
    python benchmarks/predictor.py rounds --supernet RUN --data-root DIR --out runs/rounds
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import harness
import numpy as np
import typer
from harness import DataRoot, PathOption, Table
from numpy.typing import NDArray
from rivals import MARGIN
from scipy.stats import kendalltau
from search_macro import BUDGETS, Published

from mobilenas.base.files import read_json
from mobilenas.base.units import format_size
from mobilenas.cost import CostModel
from mobilenas.cost.budget import Budget
from mobilenas.evaluate.evaluator import SupernetEvaluator
from mobilenas.evaluate.predictor import FEWEST, Predictor
from mobilenas.evaluate.workers import arch_workers
from mobilenas.runs.folder import is_run
from mobilenas.search import Problem
from mobilenas.search.problem import PREDICTION, SCORE
from mobilenas.space import AnyArch, load_space
from mobilenas.stages.evolve import Prepared, Search
from mobilenas.stages.measurements import MEASURED, Measurements
from mobilenas.stages.rounds import TRAINED, RoundSettings, search_in_rounds
from mobilenas.train.config import load_network_config
from mobilenas.train.supernets import open_supernet_run
from mobilenas.workers import ONE_WORKER

TRUTHS = (8, 16, 32, 50, 100)
PLAIN = "_".join(["e3k3"] * 8)
OURS, NEAR = "evolve --rounds", "random search near the budget"
Floats = NDArray[np.float64]


def ranking(rankings: list[Path], draws: int = 20) -> Iterator[Table]:
    """Kendall's tau of predictions with the accuracies that they are not made from."""
    space = load_space("macro")
    costs, rows = CostModel(space), []
    found = [read_json(path / "rank.json")["archs"] for path in rankings]
    for count in TRUTHS:
        taus: dict[str, list[tuple[float, float]]] = {}
        shares = []  # of the archs whose accuracy lies within a deviation of what is predicted
        for seed, archs in enumerate(found):
            genes = np.stack([space.encode(space.parse(row["arch"])) for row in archs])
            measured = np.array([(row["supernet"], row["naswot"]) for row in archs])
            truth = np.array([row["truth"] for row in archs])
            rng = np.random.default_rng([seed, count])
            for _ in range(draws):
                order = rng.permutation(len(truth))
                known, rest = order[:count], order[count:]
                predictor = Predictor(costs, genes[known], measured[known], truth[known])
                mean, deviation = predictor.predict(genes[rest], measured[rest])
                shares.append(np.mean(abs(mean - truth[rest]) <= deviation))
                ways = {
                    "prediction": mean,
                    "score": (measured[rest] / measured[rest].std(axis=0)).sum(axis=1),
                    "supernet": measured[rest, 0],
                }
                top = truth[rest] >= np.quantile(truth[rest], 0.75)
                for name, values in ways.items():
                    pair = (values, truth[rest]), (values[top], truth[rest][top])
                    one, other = (kendalltau(*x).statistic for x in pair)
                    taus.setdefault(name, []).append((one, other))
        row: dict[str, Any] = {"accuracies": count}
        for part, title in enumerate(("", ", top quarter")):
            for name, values in taus.items():
                row[f"{name}{title}"] = harness.mean_sd([x[part] for x in values], 3)
        rows.append(row | {"within a deviation": f"{100 * np.mean(shares):.0f} %"})
    title = f"{len(found)} supernets, {len(found[0])} networks, {draws} draws each; mean ± sd"
    yield Table(rows, {}, title)


class Measured:
    """What a search asks of a supernet, of which everything was measured before."""

    def __init__(self, space: Any, names: Sequence[str], measured: Floats) -> None:
        nothing = SimpleNamespace(data=SimpleNamespace(found=SimpleNamespace(to_dict=dict)))
        self.run = SimpleNamespace(space=space, images=nothing, folder=SimpleNamespace(facts={}))
        self.known = dict(zip(names, measured.tolist(), strict=True))

    def __call__(self, archs: Sequence[AnyArch]) -> list[float]:
        return [self.known[str(arch)][0] for arch in archs]

    def naswot(self, archs: Sequence[AnyArch], seed: int) -> list[float]:
        return [self.known[str(arch)][1] for arch in archs]

    def describe(self) -> dict[str, Any]:
        return {}


def rounds(
    supernet: PathOption,
    data_root: DataRoot,
    seeds: int = 10,
    count: int = 6,
    noise: Annotated[
        float, typer.Option(help="Standard deviation of a training around the published mean.")
    ] = 0,
    out: Path = Path("runs/rounds"),
) -> Iterator[Table]:
    """Regret (points) of the best arch that was trained, the last one predicted to be best."""
    table = Published(data_root / "nas_bench_macro" / "nas-bench-macro_cifar10.json")
    networks = sorted({table.space.canonical(arch) for arch in table.row}, key=str)
    evaluator = SupernetEvaluator(open_supernet_run(supernet))
    out.mkdir(parents=True, exist_ok=True)
    with arch_workers(ONE_WORKER, evaluator, 0, None) as workers:
        measured = Measurements(workers, SCORE, out / MEASURED).figures(networks)
    stand_in = Measured(table.space, list(map(str, networks)), measured)
    plain = table.row[table.space.parse(PLAIN)]
    budgets = (*BUDGETS, int(table.flops[plain]))
    trained = [FEWEST * number + 1 for number in range(1, count + 1)]
    regrets: dict[str, Floats] = {}
    for number, budget in enumerate(budgets):
        for seed in range(seeds):
            once = table.trained_once(noise, seed)
            folder = out / f"noise-{noise:g}" / f"{budget}-{seed}"
            found = {OURS: in_rounds(once, stand_in, budget, seed, count, folder)}
            for name, rows in rivals(once, budget, seed, trained[-1]).items():
                found[name] = [rows[:n] for n in trained]
            for name, after in found.items():
                regrets.setdefault(name, np.zeros((len(budgets), seeds, count)))
                values = [table.regret(rows, budget, once) for rows in after]
                regrets[name][number, seed] = values
    names = [f"{format_size(budget)} FLOPs" for budget in budgets]
    parts = {name: [number] for number, name in enumerate(names)}
    for where, part in (parts | {"mean of the round budgets": list(range(len(BUDGETS)))}).items():
        rows = [
            {"trained archs": n}
            | {way: harness.mean_sd(x[part, :, i].mean(axis=0), 3) for way, x in regrets.items()}
            for i, n in enumerate(trained)
        ]
        yield Table(rows, {}, f"Regret in points, {where}; {seeds} seeds, mean ± sd")
    ahead = regrets[NEAR] - regrets[OURS]
    rows = [
        {"trained archs": n}
        | {
            name: harness.mean_interval(ahead[part, :, i][0].tolist())
            for name, part in parts.items()
        }
        for i, n in enumerate(trained)
    ]
    title = (
        f"Points of {OURS} above {NEAR}; {seeds} seeds, mean and 95 % interval. The last budget is "
    )
    lost = table.regret([plain], budgets[-1])
    yield Table(
        rows, {}, f"{title}that of the plain network ({PLAIN[:4]}), whose regret is {lost:.3f}"
    )


def in_rounds(
    table: Published, stand_in: Any, budget: int, seed: int, count: int, out: Path
) -> list[list[int]]:
    """After each round, the rows of its archs, of those before, and of the best one that the next
    search predicts, which is trained last.
    """
    asked = Search(out / "supernet", Budget(), seed=seed)
    problem = Problem(table.cost_model, (PREDICTION,), {"flops": budget})
    config = load_network_config("cifar10-quick", [])
    settings = RoundSettings(
        rounds=count, per_round=FEWEST, config=config, inherit=False, threads=1
    )
    search_in_rounds(
        Prepared(asked, stand_in, problem),
        settings,
        lambda archs: {str(arch): table.accuracy[table.row[arch]].item() for arch in archs},
        out,
        resume=is_run(out, "evolve"),
    )
    known: list[str] = []
    found = []
    for number in range(1, count + 1):
        known += read_json(out / f"round-{number}" / TRAINED)
        if number < count:
            after = read_json(out / f"round-{number + 1}" / "front.json")
            last = [after["front"][0]["arch"]]
        else:
            last = list(read_json(out / TRAINED))
        found.append([table.row[table.space.parse(arch)] for arch in (*known, *last)])
    return found


def rivals(table: Published, budget: int, seed: int, most: int) -> dict[str, list[int]]:
    """Rows in order, of searches that train as many archs and know nothing else of them."""
    of_eight = {"evaluations": most, "population": FEWEST}
    return {
        "random search": table.random(seed, budget, most),
        NEAR: table.random(seed, budget, most, MARGIN),
        "the search for one arch": table.aging(seed, budget, **of_eight),
        "NSGA-II": table.nsga2(seed, budget, **of_eight),
        "local search": local_search(table, seed, budget, most),
    }


def local_search(table: Published, seed: int, budget: int, evaluations: int) -> list[int]:
    """Rows in order: from a random arch all that differ in one block, then on from the best of
    these, and anew from another arch where none is better (White et al. 2021).
    """
    rng = np.random.default_rng(seed)
    feasible = np.flatnonzero(table.flops <= budget)
    seen: dict[int, None] = {}
    while True:
        here = int(rng.choice(feasible))
        seen[here] = None
        while True:
            near = [
                table.row[table.space.decode(genes)]
                for genes in rng.permutation(neighbours(table.genes[here]))
            ]
            near = [row for row in near if table.flops[row] <= budget]
            seen |= dict.fromkeys(near)
            if len(seen) >= evaluations:
                return list(seen)[:evaluations]
            best = max(near, key=lambda row: table.accuracy[row], default=here)
            if table.accuracy[best] <= table.accuracy[here]:
                break
            here = best


def neighbours(genes: NDArray[np.int64]) -> NDArray[np.int64]:
    """All genes (n, blocks) that differ in one block."""
    changed = np.repeat(genes[None], 2 * len(genes), axis=0)
    for i in range(len(changed)):
        changed[i, i // 2] = (changed[i, i // 2] + 1 + i % 2) % 3
    return changed


if __name__ == "__main__":
    harness.main(ranking, rounds)
