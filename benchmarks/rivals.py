"""Does the search's answer beat simple rivals of equal cost, all trained by the same recipe?

plain     MobileNetV2's shape: kernel 3, expansion 6, one path everywhere; its FLOPs are the budget
random    the best on validation images of random archs within the budget, which are trained until
          as many multiply-adds are spent as by the first of --searches: supernet, evaluations and
          trainings
score     the search without trainings: accuracy in the supernet and NASWOT
accuracy  the same by accuracy in the supernet alone
rounds    evolve --rounds

The budget is that of the plain network of the supernet's space, or of each space of --plain, the
same at another width. Searches differ in their supernet. Every answer is then trained with fresh
seeds, each with held-out images of its own, which choose nothing, and looked at once on these and
on the test images.

Runs continue where they stopped. Several processes may share an OUT, each with supernets of its
own; with all of them the tables are complete.

    python benchmarks/rivals.py --supernet RUN --supernet RUN --data CIFAR10 --out runs/rivals
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import harness
import numpy as np
import typer
from harness import Data, Set, Table
from trainings import finished, space_file

from mobilenas.base.errors import BadInput
from mobilenas.base.files import read_json, read_jsonl
from mobilenas.cost import CostModel
from mobilenas.search.front import pick_arch
from mobilenas.space import AnySpace, Arch, Candidate, Space, load_space
from mobilenas.train.supernets import SupernetRun, open_supernet_run

MARGIN = 0.02  # the FLOPs of random archs are at most so much below the budget
DRAWS = 2000  # of 100,000 archs each, until there are as many as are trained
STEP = 3  # multiply-adds of a training step over those of a forward pass
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
    trainings: Annotated[int, typer.Option(help="How many of each answer.")] = 3,
    out: Path = Path("runs/rivals"),
) -> Iterator[Table]:
    """What searches found, against simple choices of equal FLOPs."""
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
    spaces: list[AnySpace] = [load_space(reference) for reference in plain or []]
    for shape in spaces or [runs[0].space]:
        assert isinstance(shape, Space)
        uniform = Arch(tuple(Candidate(6, ((3,),)) for _ in shape.blocks))
        budget = CostModel(shape).flops(uniform)
        rows: list[dict[str, Any]] = []
        for number, run in enumerate(runs):
            study = Study(run, budget, recipe, out / str(budget) / run.folder.path.name)
            first = FRESH + run.settings.seed * trainings
            seeds = range(first, first + trainings)
            # Before the others: the work of a search is counted in its trainings.
            done = {"plain": [study.trained(shape, uniform, seed) for seed in seeds]}
            answers = {name: study.found(name, asked[name]) for name in names}
            answers["random"] = study.best_random(names[0])
            for name, arch in answers.items():
                done[name] = [study.trained(study.space, arch, seed) for seed in seeds]
            for name, results in done.items():
                accuracy = [100 * result["last_accuracy"] for result in results]
                test = [100 * result["test_accuracy"] for result in results]
                everything.setdefault(name, []).extend(results)
                row = {"search": number, "network": name, "MFLOPs": results[0]["flops"] / 1e6}
                row |= {"held out, %": harness.mean_sd(accuracy), "test, %": harness.mean_sd(test)}
                rows.append(row | {"arch": str(answers.get(name, uniform))})
            log.info("search %d: work of %.1f trainings", number, study.work(names[0]))
        title = f"Budget {budget / 1e6:.2f}M FLOPs; {trainings} trainings of each answer, mean ± sd"
        yield Table(rows, {"MFLOPs": ".2f"}, title)
    title = f"{names[0]} - rival, points; a pair is a training seed, a search is of one budget"
    yield Table(differences(everything, names[0], trainings), {}, title)


@dataclass(frozen=True)
class Study:
    """The searches through one supernet under one budget, in `folder`. recipe: of all trainings, as
    options of the command line.
    """

    run: SupernetRun
    budget: int
    recipe: dict[str, Any]
    folder: Path

    @property
    def space(self) -> Space:
        """That of the supernet."""
        assert isinstance(self.run.space, Space)
        return self.run.space

    def found(self, name: str, asked: dict[str, Any]) -> Arch:
        """The arch that a search ends in. asked: its options."""
        through = {"supernet": self.run.folder.path, "flops": self.budget}
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
        """So many archs, uniform among those of at most MARGIN less FLOPs than the budget. Raises
        BadInput where there are hardly any.
        """
        costs, rng = CostModel(self.space), np.random.default_rng(self.run.settings.seed)
        found: dict[Arch, None] = {}
        for _ in range(DRAWS):  # of 100,000: in a wide space one of a million has such FLOPs
            genes = self.space.sample_genes(100_000, rng)
            share = costs.flops_batch(genes) / self.budget
            within = genes[(share > 1 - MARGIN) & (share <= 1)]
            found |= dict.fromkeys(self.space.decode(row) for row in within)
            if len(found) >= count:
                return list(found)[:count]
        raise BadInput(f"{self.budget} FLOPs: {len(found)} random archs found, {count} are needed")

    def trained(self, space: Space, arch: Arch, seed: int) -> Any:
        """The result of a stand-alone training."""
        name = "space" if space.to_dict() == self.space.to_dict() else "plain"
        file = space_file(space, self.folder.parent / f"{name}.yaml")
        out = self.folder.parent / "trained" / f"{name}-{arch}-s{seed}"
        return finished(out, "train", space=file, arch=arch, seed=seed, **self.recipe)

    def work(self, search: str) -> float:
        """The multiply-adds of a search, in trainings of a network of the budget's FLOPs."""
        costs, folder = CostModel(self.space), self.folder / search
        done = sorted((folder / "truth" / "trainings").glob("*"))
        plain = next((self.folder.parent / "trained").iterdir())
        images = len(read_json(plain / "splits.json")["train"]) * _epochs(plain)
        trainings = sum(costs.flops(self.space.parse(each.name)) for each in done) * STEP * images

        drawn = self.space.sample_genes(1000, np.random.default_rng(0))
        passes, splits = self.run.settings.config.passes, self.run.images.splits
        supernet = costs.flops_batch(drawn).mean() * STEP * passes * len(splits.train)

        measured = read_jsonl(folder / ("measured.jsonl" if done else "evaluations.jsonl"))
        flops = sum(costs.flops(self.space.parse(row["arch"])) for row in measured)
        evaluations = flops * (len(splits.calibrate) + len(splits.validate))
        return float(trainings + supernet + evaluations) / (self.budget * STEP * images)


def _epochs(training: Path) -> int:
    return int(read_json(training / "run.json")["settings"]["config"]["epochs"])


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
