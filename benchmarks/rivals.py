"""Does the search's answer beat simple rivals of equal FLOPs, all trained by the same recipe?

uniform   kernel 3, expansion 6, one path everywhere: what MobileNetV2 is; its FLOPs are the budget
winner    the most accurate arch that a search through the supernet RUN found under that budget
random    archs drawn from the whole space with FLOPs within 2 % below the budget

Every arch is trained alone from scratch with each seed; the accuracies are those of the last epoch
on held-out training images. Runs continue where they stopped; once the search is done, several
processes may share an OUT if each has seeds of its own; with all --seeds the table is complete.

    python benchmarks/rivals.py --supernet RUN --data CIFAR10 --out runs/rivals
"""

import argparse
from pathlib import Path

import numpy as np

from mobilenas.config import load_train_config
from mobilenas.cost import CostModel
from mobilenas.cost.budget import Budget
from mobilenas.files import read_json
from mobilenas.pipeline import Search, run_evolve
from mobilenas.process import tune_process
from mobilenas.retrain import run_train
from mobilenas.search.evolve import SETTINGS
from mobilenas.search.found import pick_arch
from mobilenas.space import Arch, Candidate, Space, space_from_dict
from mobilenas.train.alone_run import TrainSettings, create_train_run, open_train_run
from mobilenas.train.run import read_settings

MARGIN = 0.02


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
    archs = {"winner": winner(options.supernet, budget, space, options.out / "evolve")}
    archs["uniform"] = uniform
    for number, arch in enumerate(drawn(space, costs, budget, options.random), start=1):
        archs[f"random {number}"] = arch
    found = {
        (name, seed): accuracy(arch, space, seed, options)
        for seed in options.seeds
        for name, arch in archs.items()
    }
    print_table(archs, found, costs, options.seeds)


def winner(supernet: Path, budget: int, space: Space, out: Path) -> Arch:
    """What the search finds, in a run folder that is continued."""
    search = Search(supernet, Budget({"flops": budget}), population=20, generations=16)
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
    seeds: list[int],
) -> None:
    print(f"\nseeds {seeds}\n\n| network | FLOPs | params | accuracy, mean ± sd | by seed | arch |")
    print("|---|---|---|---|---|---|")
    percent = {name: np.array([100 * found[name, seed] for seed in seeds]) for name in archs}
    for name, arch in archs.items():
        values = percent[name]
        each = ", ".join(f"{value:.2f}" for value in values)
        size = f"{costs.flops(arch) / 1e6:.2f}M | {costs.params(arch) / 1e3:.0f}k"
        print(f"| {name} | {size} | {spread(values)} | {each} | `{arch}` |")
    others = np.array([values for name, values in percent.items() if name.startswith("random")])
    print(f"| random, all {len(others)} | | | {spread(others.mean(axis=0))} | | |")
    for rival, values in (("uniform", percent["uniform"]), ("random", others.mean(axis=0))):
        print(f"\nwinner - {rival}, by seed: {spread(percent['winner'] - values)}")


def spread(values: np.ndarray) -> str:
    sd = f" ± {values.std(ddof=1):.2f}" if len(values) > 1 else ""
    return f"{values.mean():.2f}{sd}"


if __name__ == "__main__":
    main()
