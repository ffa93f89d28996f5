"""Does the search's answer beat simple rivals of equal cost, all trained by the same recipe?

plain     MobileNetV2's shape: kernel 3, expansion 6, one path everywhere; its FLOPs are the budget
random    the best on validation images of random archs within the budget, which are trained until
          as many multiply-adds are spent as by the first of --searches: supernet, evaluations and
          trainings
published archs (--published) at the plain network's width, if they are within a budget of FLOPs
score     the search without trainings: accuracy in the supernet and NASWOT
accuracy  the same by accuracy in the supernet alone
rounds    evolve --rounds

The budget is that of the plain network of the supernet's space, or of each space of --plain, the
same at another width. It is in FLOPs, or with --table in ms: what the plain network takes on this
host, by which the tables must have been made, timed before anything else. Searches differ in their
supernet. Every answer is then trained with fresh seeds, each with held-out images of its own, which
choose nothing, and looked at once on these and on the test images.

Runs continue where they stopped. Several processes may share an OUT, each with supernets of its
own; with all of them the tables are complete.

    python benchmarks/rivals.py --supernet RUN --supernet RUN --data CIFAR10 --out runs/rivals
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import harness
import numpy as np
import typer
from harness import Data, Set, Table
from numpy.typing import NDArray
from trainings import finished, space_file

from mobilenas.base.errors import BadInput
from mobilenas.base.files import read_jsonl
from mobilenas.base.progress import ProgressBar
from mobilenas.cost import CostModel
from mobilenas.cost.latency import LatencyTable, read_table
from mobilenas.cost.titles import latency_cost
from mobilenas.latency.graphs import network_job
from mobilenas.latency.measure import TimingLog, measure, steps
from mobilenas.latency.networks import control_arch
from mobilenas.latency.timer import Host, make_timer
from mobilenas.search import Problem
from mobilenas.search.front import pick_arch
from mobilenas.search.operators import sample_feasible
from mobilenas.space import AnySpace, Arch, Candidate, Space, load_space, space_from_dict
from mobilenas.space.published import PUBLISHED
from mobilenas.train.config import load_network_config
from mobilenas.train.supernets import SupernetRun, open_supernet_run

MARGIN = 0.02  # the costs of random archs are at most so much below the budget
DRAWS = 200  # of 100,000 archs each, until there are as many as are trained
CHANGED = 1000  # archs that are changed, where draws do not do
STEP = 3  # multiply-adds of a training step over those of a forward pass
ROUNDS = 10  # of timings of a network
FRESH = 100  # the first seed of the last trainings

log = logging.getLogger(__name__)


def main(
    supernet: Annotated[list[Path], typer.Option(help="One for each search.")],
    data: Data,
    plain: Annotated[list[str] | None, typer.Option(help="Its plain network is a budget.")] = None,
    preset: str = "cifar10-quick",
    settings: Set = None,
    rounds: int = 2,
    per_round: int = 8,
    searches: Annotated[
        str, typer.Option(help="By commas: score, accuracy, rounds.")
    ] = "rounds,score",
    population: int = 20,
    generations: int = 5,
    published: Annotated[
        str, typer.Option(help="Archs of the plain network's space, by commas: fairnas_a.")
    ] = "",
    trainings: Annotated[int, typer.Option(help="How many of each answer.")] = 3,
    final: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE of these alone, beside --set.")
    ] = None,
    table: Annotated[
        list[Path] | None, typer.Option(help="Latency tables: the budgets are in ms.")
    ] = None,
    out: Path = Path("runs/rivals"),
) -> Iterator[Table]:
    """What searches found, against simple choices of equal cost."""
    recipe = {"data": data, "preset": preset, "set": settings or []}
    search = {"population": population, "generations": generations}
    asked: dict[str, dict[str, Any]] = {
        **{name: {"objectives": name, **search} for name in ("score", "accuracy")},
        "rounds": {
            "objectives": "prediction",
            "rounds": rounds,
            "per_round": per_round,
            **search,
            **recipe,
        },
    }
    names = searches.split(",")
    runs = [open_supernet_run(folder) for folder in supernet]
    everything: dict[str, list[Any]] = {}
    home = runs[0].space
    spaces: list[AnySpace] = [load_space(each) for each in plain or []]
    for limit in limits(spaces or [home], table, home, out):
        rows: list[dict[str, Any]] = []
        for number, run in enumerate(runs):
            study = Study(run, limit, recipe, tuple(final or ()))
            first = FRESH + run.settings.seed * trainings
            seeds = range(first, first + trainings)
            simple = {"plain": limit.uniform} | limit.published(published)
            done = {
                name: [study.final(limit.plain, arch, seed) for seed in seeds]
                for name, arch in simple.items()
            }
            answers = {name: study.found(name, asked[name]) for name in names}
            answers["random"] = study.best_random(names[0])
            for name, arch in answers.items():
                done[name] = [study.final(study.space, arch, seed) for seed in seeds]
            for name, results in done.items():
                accuracy = [100 * result["last_accuracy"] for result in results]
                test = [100 * result["test_accuracy"] for result in results]
                everything.setdefault(name, []).extend(results)
                arch = (answers | simple)[name]
                row = {"search": number, "network": name, "MFLOPs": results[0]["flops"] / 1e6}
                row |= limit.latency(study.space, answers.get(name))
                row |= {"held out, %": harness.mean_sd(accuracy), "test, %": harness.mean_sd(test)}
                rows.append(row | {"arch": str(arch)})
            log.info("search %d: work of %.1f trainings", number, study.work(names[0]))
        title = f"Budget {limit}; {trainings} trainings of each answer, mean ± sd"
        yield Table(rows, {"MFLOPs": ".2f", "ms": ".3f", "by the table": ".3f"}, title)
    title = f"{names[0]} - rival, points; a pair is a training seed, a search is of one budget"
    yield Table(differences(everything, names[0], trainings), {}, title)


@dataclass(frozen=True)
class Limit:
    """What the plain network of a space costs: FLOPs, or with a table ms on this host.

    folder: of all studies with this plain network.
    """

    plain: Space
    folder: Path
    table: LatencyTable | None = None
    file: Path | None = None  # of the table
    ms: float | None = None

    @property
    def uniform(self) -> Arch:
        """The plain network."""
        return Arch(tuple(Candidate(6, ((3,),)) for _ in self.plain.blocks))

    @property
    def flops(self) -> int:
        """Multiply-adds of the plain network."""
        return CostModel(self.plain).flops(self.uniform)

    def published(self, names: str) -> dict[str, Arch]:
        """Of published archs, by commas, those within the limit, which must be of FLOPs."""
        if names and self.table:
            raise BadInput("--published goes with budgets of FLOPs")
        archs = {name: self.plain.parse(PUBLISHED[name][1]) for name in names.split(",") if name}
        costs = CostModel(self.plain)
        return {name: arch for name, arch in archs.items() if costs.flops(arch) <= self.flops}

    def __str__(self) -> str:
        if self.table is None:
            return f"{self.flops / 1e6:.2f}M FLOPs"
        return f"{self.ms:.3f} ms on {self.table.name}"

    @property
    def flags(self) -> dict[str, Any]:
        """As evolve takes it."""
        return {"latency": f"{self.ms}ms@{self.file}"} if self.table else {"flops": self.flops}

    def problem(self, space: Space) -> Problem:
        """Archs of a space within the limit."""
        if self.table is None or self.ms is None:
            return Problem(CostModel(space), ("accuracy",), {"flops": self.flops})
        limit = {latency_cost(self.table.name): self.ms}
        return Problem(CostModel(space, [self.table]), ("accuracy",), limit)

    def shares(self, space: Space, genes: NDArray[Any]) -> NDArray[np.float64]:
        """Costs of archs over the limit, (n,)."""
        problem = self.problem(space)
        ((cost, limit),) = problem.limits.items()
        return problem.cost_model.batch(cost, genes) / np.float64(limit)

    def latency(self, space: Space, arch: Arch | None) -> dict[str, float]:
        """For a row: ms of an arch as it is timed and as the table says; of None the limit."""
        if self.table is None or self.ms is None:
            return {}
        if arch is None:
            return {"ms": self.ms, "by the table": np.nan}
        by_table = self.shares(space, space.encode(arch)[None])[0] * self.ms
        folder = self.folder / self.table.name / "timed"
        return {"ms": timed(space, arch, self.table, space, folder), "by the table": by_table}


def limits(
    plain: list[AnySpace], tables: list[Path] | None, home: AnySpace, out: Path
) -> list[Limit]:
    """The budgets, in ms if there are tables, which are those of `home`, whose classes are those of
    the data.
    """
    assert isinstance(home, Space)
    found = []
    for each in plain:
        space = space_from_dict(each.to_dict() | {"num_classes": home.num_classes})
        limit = Limit(space, out)
        limit = replace(limit, folder=out / str(limit.flops))
        for file in tables or []:
            table = read_table(file)
            ms = timed(space, limit.uniform, table, home, limit.folder / table.name / "plain")
            found.append(replace(limit, table=table, file=file, ms=round(ms, 4)))
        if not tables:
            found.append(limit)
    return found


def timed(space: Space, arch: Arch, table: LatencyTable, home: Space, folder: Path) -> float:
    """Milliseconds of a network on this host, by the runtime of a table, as when the table was
    made: by the time that the control network of its space, `home`, takes now.
    """
    assert table.dtype is not None and table.threads is not None and table.control_ms is not None
    timer = make_timer(table.runtime, dtype=table.dtype, threads=table.threads, command=None)
    run = folder / str(arch)
    run.mkdir(parents=True, exist_ok=True)
    log, job = TimingLog(run / "timings.jsonl"), network_job(space, arch, table.batch)
    control = network_job(home, control_arch(home), table.batch)
    with ProgressBar(f"{table.name}: {arch}", steps([job], log, ROUNDS)) as bar:
        measure([job], Host(timer, run), log, control=control, rounds=ROUNDS, bar=bar)
    now = log.control()
    assert now is not None
    return log.timings()[job.key].median_ms * table.control_ms / now.median_ms


@dataclass(frozen=True)
class Study:
    """The searches through one supernet under one budget. recipe: of all trainings, as options of
    the command line; settings: more of the last ones.
    """

    run: SupernetRun
    limit: Limit
    recipe: dict[str, Any]
    settings: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """That of the searches."""
        table = self.limit.table
        home = self.limit.folder / table.name if table else self.limit.folder
        return home / self.run.folder.path.name

    @property
    def space(self) -> Space:
        """That of the supernet."""
        assert isinstance(self.run.space, Space)
        return self.run.space

    def found(self, name: str, asked: dict[str, Any]) -> Arch:
        """The arch that a search ends in. asked: its options."""
        through = {"supernet": self.run.folder.path, **self.limit.flags}
        seed = self.run.settings.seed
        found = finished(
            self.folder / name, "evolve", result="front.json", **through, seed=seed, **asked
        )
        return self.space.parse(pick_arch(found["front"], "best"))

    def best_random(self, search: str) -> Arch:
        """The best of as many random archs as can be trained by the work of a search."""
        seed = self.run.settings.seed
        # The seed of the trainings in rounds: the same validation images.
        results = {
            arch: self.trained(self.space, arch, seed + 1)["accuracy"]
            for arch in self.drawn(round(self.work(search)))
        }
        return max(results, key=lambda arch: results[arch])

    def drawn(self, count: int) -> list[Arch]:
        """So many archs, uniform among those of at most MARGIN less cost than the budget. Where
        draws find too few, archs that were drawn and then changed at random until they are within
        it. Raises BadInput where there are hardly any.
        """
        rng = np.random.default_rng(self.run.settings.seed)
        found: dict[Arch, None] = {}
        for _ in range(DRAWS):  # of 100,000: in a wide space one of a million has such FLOPs
            genes = self.space.sample_genes(100_000, rng)
            share = self.limit.shares(self.space, genes)
            within = genes[(share > 1 - MARGIN) & (share <= 1)]
            found |= dict.fromkeys(self.space.decode(row) for row in within)
            if len(found) >= count:
                return list(found)[:count]
        log.info("%s: %d of %d random archs by draws alone", self.limit, len(found), count)
        genes = sample_feasible(self.limit.problem(self.space), CHANGED, rng)
        share = self.limit.shares(self.space, genes)
        within = genes[(share > 1 - MARGIN) & (share <= 1)]
        found |= dict.fromkeys(self.space.decode(row) for row in within)
        if len(found) >= count:
            return list(found)[:count]
        raise BadInput(f"{self.limit}: {len(found)} random archs found, {count} are needed")

    def trained(self, space: Space, arch: Arch, seed: int, settings: tuple[str, ...] = ()) -> Any:
        """The result of a stand-alone training. settings: beside those of the recipe."""
        name = "space" if space.to_dict() == self.space.to_dict() else "plain"
        file = space_file(space, self.limit.folder / f"{name}.yaml")
        recipe = self.recipe | {"set": [*self.recipe["set"], *settings]}
        out = self.limit.folder / "-".join(("trained", *settings)) / f"{name}-{arch}-s{seed}"
        return finished(out, "train", space=file, arch=arch, seed=seed, **recipe)

    def final(self, space: Space, arch: Arch, seed: int) -> Any:
        """The result of one of the last trainings, of an answer."""
        return self.trained(space, arch, seed, self.settings)

    def work(self, search: str) -> float:
        """The multiply-adds of a search, in trainings of a network of the budget's FLOPs."""
        costs, folder = CostModel(self.space), self.folder / search
        done = sorted((folder / "truth" / "trainings").glob("*"))
        splits = self.run.images.splits
        config = load_network_config(self.recipe["preset"], self.recipe["set"])
        count = len(splits.train) + len(splits.validate)
        images = min(config.limit or count, count - config.held_out(count)) * config.epochs
        trainings = sum(costs.flops(self.space.parse(each.name)) for each in done) * STEP * images

        drawn = self.space.sample_genes(1000, np.random.default_rng(0))
        passes = self.run.settings.config.passes
        supernet = costs.flops_batch(drawn).mean() * STEP * passes * len(splits.train)

        measured = read_jsonl(folder / ("measured.jsonl" if done else "evaluations.jsonl"))
        flops = sum(costs.flops(self.space.parse(row["arch"])) for row in measured)
        evaluations = flops * (len(splits.calibrate) + len(splits.validate))
        return float(trainings + supernet + evaluations) / (self.limit.flops * STEP * images)


def differences(
    everything: dict[str, list[Any]], search: str, trainings: int
) -> list[dict[str, Any]]:
    """By how many points the answer of a search is above the others: over all trainings, with a
    95 % interval of Student's t, and the mean of each search. everything: the results of all
    trainings by what was trained, in one order. trainings: of each search.
    """
    rows = []
    for name in sorted(set(everything) - {search}):
        row: dict[str, Any] = {"rival": name, "n": len(everything[name])}
        for title, key in (("held out", "last_accuracy"), ("test", "test_accuracy")):
            ours, theirs = ([x[key] for x in everything[each]] for each in (search, name))
            points = 100 * np.subtract(ours, theirs)
            each_search = points.reshape(-1, trainings).mean(axis=1)
            row[title] = harness.mean_interval(points.tolist())
            row[f"{title}, by search"] = ", ".join(f"{x:+.2f}" for x in each_search)
        rows.append(row)
    return rows


if __name__ == "__main__":
    harness.main(main)
