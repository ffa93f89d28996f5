"""Does the search's answer beat simple rivals of equal FLOPs, all trained by the same recipe?

uniform   kernel 3, expansion 6, one path everywhere: what MobileNetV2 is; its FLOPs are the budget
winner    the most accurate arch that a search through the supernet RUN found under that budget
by score  that of the highest score (accuracy and NASWOT) of a search by score
random    archs drawn from the whole space with FLOPs within 2 % below the budget

Every arch is trained alone from scratch with each seed; the accuracies are those of the last epoch
on held-out training images. Beside them: what the supernet and NASWOT say of each, and what the
supernet's accuracy depends on over random archs of the space.

Runs continue where they stopped; once the search is done, several processes may share an OUT if
each has seeds of its own, and with all --seeds the table is complete.

    python benchmarks/rivals.py --supernet RUN --data CIFAR10 --out runs/rivals
"""

import argparse
from pathlib import Path

import numpy as np
from scipy.stats import kendalltau

from mobilenas.base.files import read_json
from mobilenas.base.process import tune_process
from mobilenas.cost import CostModel
from mobilenas.cost.budget import Budget
from mobilenas.evaluate.evaluator import SupernetEvaluator
from mobilenas.pipeline import Search, run_evolve
from mobilenas.retrain import run_train
from mobilenas.search.evolve import SETTINGS
from mobilenas.search.front import pick_arch
from mobilenas.space import Arch, Candidate, Space, space_from_dict
from mobilenas.train.alone_run import TrainSettings, create_train_run, open_train_run
from mobilenas.train.config import load_train_config
from mobilenas.train.run import open_run, read_settings

MARGIN = 0.02
FITTED = 60  # random archs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--supernet", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--preset", default="cifar10-quick")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--random", type=int, default=5, help="how many random archs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101, 102])
    parser.add_argument("--out", type=Path, default=Path("runs/rivals"))
    options = parser.parse_args()
    tune_process()
    space = space_from_dict(read_settings(options.supernet).space)
    costs = CostModel(space)
    uniform = Arch(tuple(Candidate(6, ((3,),)) for _ in space.blocks))
    budget = costs.flops(uniform)
    archs = {"winner": winner(options, budget, space, "accuracy,flops", "evolve")}
    archs["by score"] = winner(options, budget, space, "score,flops", "evolve-score")
    archs["uniform"] = uniform
    for number, arch in enumerate(drawn(space, costs, budget, options.random), start=1):
        archs[f"random {number}"] = arch
    found = {
        (name, seed): accuracy(arch, space, seed, options)
        for seed in options.seeds
        for name, arch in archs.items()
    }
    evaluator = SupernetEvaluator(open_run(options.supernet))
    print_table(archs, found, costs, evaluator, options.seeds)
    print_influences(space, evaluator)


def winner(
    options: argparse.Namespace, budget: int, space: Space, objectives: str, folder: str
) -> Arch:
    """What the search finds, in a run folder that is continued."""
    limit, out = Budget({"flops": budget}), options.out / folder
    search = Search(options.supernet, limit, objectives, population=20, generations=16)
    result = run_evolve(search, out, resume=(out / SETTINGS).exists())
    return space.parse(pick_arch([evaluation.row() for evaluation in result.front], "best"))


def drawn(space: Space, costs: CostModel, budget: int, count: int) -> list[Arch]:
    """Random archs of nearly the budget, uniform over these."""
    genes = space.sample_genes(100_000, np.random.default_rng(0))
    share = costs.flops_batch(genes) / budget
    fitting = genes[(share > 1 - MARGIN) & (share <= 1)]
    return [space.decode(row) for row in fitting[:count]]


def accuracy(arch: Arch, space: Space, seed: int, options: argparse.Namespace) -> float:
    """Of the last epoch, on the held-out images of the seed."""
    folder = options.out / f"{arch}-s{seed}"
    if not (folder / "run.json").exists():
        config = load_train_config(options.preset, options.settings)
        settings = TrainSettings(
            space=space.to_dict(), arch=str(arch), data=options.data, seed=seed, config=config
        )
        create_train_run(folder, settings)
    if not (folder / "result.json").exists():
        run_train(open_train_run(folder))
    return float(read_json(folder / "result.json", "last_accuracy")["last_accuracy"])


def print_table(
    archs: dict[str, Arch],
    found: dict[tuple[str, int], float],
    costs: CostModel,
    evaluator: SupernetEvaluator,
    seeds: list[int],
) -> None:
    chosen = list(archs.values())
    inherited = np.array(evaluator(chosen))
    naswot = evaluator.naswot(chosen, seed=0)
    head = "FLOPs | params | accuracy, mean ± sd | by seed | in the supernet | NASWOT | arch"
    print(f"\nseeds {seeds}\n\n| network | {head} |\n" + "|---" * 8 + "|")
    percent = {name: np.array([100 * found[name, seed] for seed in seeds]) for name in archs}
    for (name, arch), share, score in zip(archs.items(), inherited, naswot, strict=True):
        values = percent[name]
        each = ", ".join(f"{value:.2f}" for value in values)
        size = f"{costs.flops(arch) / 1e6:.2f}M | {costs.params(arch) / 1e3:.0f}k"
        says = f"{100 * share:.1f} | {score:.0f}"
        print(f"| {name} | {size} | {spread(values)} | {each} | {says} | `{arch}` |")
    others = np.array([values for name, values in percent.items() if name.startswith("random")])
    print(f"| random, all {len(others)} | | | {spread(others.mean(axis=0))} | | | | |")
    print()
    for rival, values in (("uniform", percent["uniform"]), ("random", others.mean(axis=0))):
        for name in ("winner", "by score"):
            print(f"{name} - {rival}, by seed: {spread(percent[name] - values)}")

    means = [percent[name].mean() for name in archs]
    pairs = dict(zip(chosen, zip(inherited, means, strict=True), strict=True)).values()  # distinct
    tau = kendalltau(*zip(*pairs, strict=True)).statistic
    print(f"Kendall's tau of supernet and accuracy: {tau:.2f}, n = {len(pairs)}")


def print_influences(space: Space, evaluator: SupernetEvaluator) -> None:
    """A linear fit of the supernet's accuracy, and its accuracy for one candidate everywhere."""
    genes = space.sample_genes(FITTED, np.random.default_rng(1))
    drawn = [space.decode(row) for row in genes]
    accuracies = 100 * np.array(evaluator(drawn))
    facts = [
        (
            sum(block.expansion == 6 for block in arch.blocks),
            sum(block.num_paths == 2 for block in arch.blocks),
            np.mean([max(block.kernels[0]) for block in arch.blocks]),
            1,
        )
        for arch in drawn
    ]
    wide, two, kernel, _ = np.linalg.lstsq(np.array(facts), accuracies, rcond=None)[0]
    extent = f"{accuracies.min():.1f} to {accuracies.max():.1f} %"
    print(f"\n{FITTED} random archs, {extent} in the supernet;")
    print(f"points for a block of expansion 6: {wide:.2f}, of two paths: {two:.2f}, for a mean")
    print(f"largest kernel wider by 1: {kernel:.2f}")
    for expansion in (3, 6):
        alike = [Candidate(expansion, ((k,),)) for k in space.blocks[0].kernels]
        shares = evaluator([Arch((candidate,) * len(space.blocks)) for candidate in alike])
        each = ", ".join(f"{c} {100 * x:.1f}" for c, x in zip(alike, shares, strict=True))
        print(f"one candidate everywhere: {each}")


def spread(values: np.ndarray) -> str:
    sd = f" ± {values.std(ddof=1):.2f}" if len(values) > 1 else ""
    return f"{values.mean():.2f}{sd}"


if __name__ == "__main__":
    main()
