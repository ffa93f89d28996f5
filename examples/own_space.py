"""A space and a budget of your own: a supernet of it, then the front within the budget.

python examples/own_space.py [FOLDER]      # half a minute; the images are the built-in digits
"""

import sys
from pathlib import Path

from mobilenas.cost import CostModel
from mobilenas.cost.budget import Budget
from mobilenas.space import space_from_dict
from mobilenas.stages.evolve import Search, run_evolve
from mobilenas.stages.supernet_train import (
    create_supernet_run,
    score_supernet,
    train_supernet,
)
from mobilenas.train.config import load_supernet_config

# The keys are those of a YAML file (docs/spaces.md); a stage may have candidates of its own.
SPACE = {
    "name": "small_digits",
    "description": "four blocks, the last two with squeeze-excite",
    "resolution": 16,
    "num_classes": 10,  # replaced by the number that the images have
    "activation": "hard_swish",
    "stem": {"channels": 16, "stride": 2},
    "candidates": {"expansions": [2, 4], "kernels": [3, 5], "max_paths": 2},
    "stages": [
        {"channels": 16, "blocks": 2, "candidates": ["id", "e2k3", "e2k5", "e4k35"]},
        {"channels": 32, "blocks": 2, "stride": 2, "squeeze_excite": 0.25},
    ],
    "head": {"channels": 64},
}


def main(out: Path) -> None:
    space = space_from_dict(SPACE)
    costs = CostModel(space)
    flops = costs.range("flops")
    budget = Budget({"flops": flops.median, "params": 20_000})
    share = costs.feasible_share(budget.limits)
    print(f"{space.num_archs} archs of {flops.minimum:,} to {flops.maximum:,} FLOPs,", end=" ")
    print(f"{100 * share:.0f} % of them within the budget")

    recipe = load_supernet_config("quick", ["passes=12", "lr=0.1", "limit=600"])
    supernet = create_supernet_run(out / "supernet", space, "digits", seed=0, config=recipe)
    train_supernet(supernet)
    score_supernet(supernet)  # of a few archs; with that the run is finished

    search = Search(out / "supernet", budget, "accuracy,flops", population=8, generations=4)
    for found in run_evolve(search, out / "evolve", resume=False).front:
        print(f"{100 * found.accuracy:5.1f} %  {found.costs['flops']:9,} FLOPs  {found.arch}")


if __name__ == "__main__":
    main(Path(*sys.argv[1:2] or ["runs/own_space"]))
