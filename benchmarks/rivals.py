"""Does the search's answer beat simple rivals of equal FLOPs, all trained by the same recipe?

uniform   kernel 3, expansion 6, one path everywhere: what MobileNetV2 is; its FLOPs are the budget
winner    the most accurate arch that a search through the supernet RUN found under that budget
by score  that of the highest score (accuracy and NASWOT) of a search by score
random    archs drawn from the whole space with FLOPs within 2 % below the budget

Every arch is trained stand-alone with each seed; the accuracies are those of the last epoch on
held-out training images. Beside them: what the supernet and NASWOT say of each, and what the
supernet's accuracy depends on over random archs of the space.

Runs continue where they stopped; once the search is done, several processes may share an OUT if
each has seeds of its own, and with all --seeds the table is complete.

    python benchmarks/rivals.py --supernet RUN --data CIFAR10 --out runs/rivals
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import harness
import numpy as np
import typer
from harness import Data, PathOption, Set, Table
from scipy.stats import kendalltau
from supernet_accuracy import alike, influences
from trainings import finished, space_file, stand_alone

from mobilenas.cost import CostModel
from mobilenas.evaluate.evaluator import SupernetEvaluator
from mobilenas.search.front import pick_arch
from mobilenas.space import Arch, Candidate, Space
from mobilenas.train.supernets import open_supernet_run

MARGIN = 0.02
FORMATS = {"MFLOPs": ".2f", "params": ",", "in the supernet": ".1%", "NASWOT": ".0f"}


def main(
    supernet: PathOption,
    data: Data,
    preset: str = "cifar10-quick",
    settings: Set = None,
    random: Annotated[int, typer.Option(help="How many random archs.")] = 5,
    seeds: str = "100,101,102",
    generations: int = 16,
    out: Path = Path("runs/rivals"),
) -> Iterator[Table]:
    """What a search found against simple choices of equal FLOPs."""
    evaluator = SupernetEvaluator(open_supernet_run(supernet))
    space = evaluator.run.space
    assert isinstance(space, Space)
    file = space_file(space, out / "space.yaml")
    costs = CostModel(space)
    uniform = Arch(tuple(Candidate(6, ((3,),)) for _ in space.blocks))
    budget = costs.flops(uniform)
    archs: dict[str, Arch] = {}
    for name, quality in (("winner", "accuracy"), ("by score", "score")):
        flags: dict[str, Any] = {"supernet": supernet, "flops": budget, "generations": generations}
        flags |= {"objectives": f"{quality},flops", "result": "front.json"}
        search = finished(out / f"evolve-{quality}", "evolve", **flags)
        archs[name] = space.parse(pick_arch(search["front"], "best"))
    drawn = random_archs(space, costs, budget, random)
    archs |= {"uniform": uniform} | {f"random {i}": arch for i, arch in enumerate(drawn, start=1)}
    percent: dict[str, list[float]] = {name: [] for name in archs}
    recipe: dict[str, Any] = {"data": data, "preset": preset, "settings": settings or []}
    for seed in harness.numbers(seeds):
        for name, arch in archs.items():
            percent[name].append(stand_alone(out, file, arch, seed=seed, **recipe))

    chosen = list(archs.values())
    inherited, naswot = evaluator(chosen), evaluator.naswot(chosen, seed=0)
    rows = [
        {
            "network": name,
            "MFLOPs": costs.flops(arch) / 1e6,
            "params": costs.params(arch),
            "accuracy, %": harness.mean_sd(percent[name]),
            "in the supernet": accuracy,
            "NASWOT": score,
            "arch": str(arch),
        }
        for (name, arch), accuracy, score in zip(archs.items(), inherited, naswot, strict=True)
    ]
    others = np.mean([percent[name] for name in archs if name.startswith("random")], axis=0)
    rows.append({"network": "random, all", "accuracy, %": harness.mean_sd(others)})
    means = [np.mean(percent[name]) for name in archs]
    pairs = dict(zip(chosen, zip(inherited, means, strict=True), strict=True)).values()  # distinct
    tau = kendalltau(*zip(*pairs, strict=True)).statistic
    title = f"Kendall's tau of supernet and stand-alone training: {tau:.2f}, n = {len(pairs)}"
    yield Table(rows, FORMATS, f"seeds {seeds}; mean ± sd. {title}")
    differences = []
    for rival, values in (("uniform", percent["uniform"]), ("random", others)):
        for name in ("winner", "by score"):
            points = harness.mean_sd(np.subtract(percent[name], values))
            differences.append({"by seed": f"{name} - {rival}", "points, mean ± sd": points})
    yield Table(differences)
    yield from in_the_supernet(space, evaluator)


def random_archs(space: Space, costs: CostModel, budget: int, count: int) -> list[Arch]:
    """Archs of nearly the budget, uniform over these."""
    genes = space.sample_genes(100_000, np.random.default_rng(0))
    share = costs.flops_batch(genes) / budget
    fitting = genes[(share > 1 - MARGIN) & (share <= 1)]
    return [space.decode(row) for row in fitting[:count]]


def in_the_supernet(space: Space, evaluator: SupernetEvaluator) -> Iterator[Table]:
    """A linear fit of the supernet's accuracy, and its accuracy for one candidate everywhere."""
    accuracies, slopes = influences(space, evaluator)
    rows = [{"for": name, "points": x, "± se": se} for name, (x, se) in slopes.items()]
    extent = f"{min(accuracies):.1f} to {max(accuracies):.1f} %"
    title = f"{len(accuracies)} random archs, {extent} in the supernet"
    yield Table(rows, {"points": "+.2f", "± se": ".2f"}, title)
    archs = alike(space)
    shares = evaluator(archs)
    rows = [
        {"everywhere": str(arch.blocks[0]), "accuracy": x}
        for arch, x in zip(archs, shares, strict=True)
    ]
    yield Table(rows, {"accuracy": ".1%"})


if __name__ == "__main__":
    harness.main(main)
