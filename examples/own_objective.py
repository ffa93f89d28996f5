"""An objective of your own: the energy of a network, summed from a CSV that has that of each block.

python examples/own_objective.py [FOLDER]      # half a minute; the images are the built-in digits

The numbers of energy.csv are made up; a power meter on your board gives better ones.
"""

import csv
import sys
from pathlib import Path

from mobilenas.cost import BlockCosts
from mobilenas.cost.budget import Budget
from mobilenas.space import Space, load_space
from mobilenas.stages.evolve import Search, run_evolve
from mobilenas.stages.supernet_train import (
    create_supernet_run,
    score_supernet,
    train_supernet,
)
from mobilenas.train.config import load_supernet_config

ENERGY = "energy_mj@board"  # quantity, unit @ device


def read_energy(path: Path, space: Space) -> BlockCosts:
    """Lines of block (1, 2, ...; 0: stem and head), candidate, millijoules."""
    fixed = 0.0
    blocks: list[dict[str, float]] = [{} for _ in space.blocks]
    with path.open() as file:
        for row in csv.DictReader(file):
            number, millijoules = int(row["block"]), float(row["millijoules"])
            if number:
                blocks[number - 1][row["candidate"]] = millijoules
            else:
                fixed += millijoules
    return BlockCosts(ENERGY, blocks, fixed)


def main(out: Path) -> None:
    space = load_space("digits:candidates.max_paths=1,resolution=16")
    energy = read_energy(Path(__file__).with_name("energy.csv"), space)

    recipe = load_supernet_config("quick", ["strategy=uniform", "passes=12", "lr=0.1", "limit=600"])
    supernet = create_supernet_run(out / "supernet", space, "digits", seed=0, config=recipe)
    train_supernet(supernet)
    score_supernet(supernet)  # of a few archs; with that the run is finished

    # It is a limit here as well as an objective; either alone works too.
    budget = Budget({ENERGY: 12.0}, own=(energy,))
    search = Search(out / "supernet", budget, f"accuracy,{ENERGY}", population=8, generations=8)
    for found in run_evolve(search, out / "evolve", resume=False).front:
        print(f"{100 * found.accuracy:5.1f} %  {found.costs[ENERGY]:5.2f} mJ  {found.arch}")


if __name__ == "__main__":
    main(Path(*sys.argv[1:2] or ["runs/own_objective"]))
