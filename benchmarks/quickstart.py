"""The winner of `mobilenas quickstart` against the uniform arch whose FLOPs are nearest to its own,
trained in the same way, from the weights that it has in the same supernet.

    python benchmarks/quickstart.py --seeds 0,1,2,3,4
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness
from harness import Table
from trainings import finished

from mobilenas.cost import CostModel
from mobilenas.space import Arch, Space, load_space


def main(seeds: str = "0,1,2,3,4", out: Path = Path("runs/quickstart-rival")) -> Iterator[Table]:
    """Accuracy on the test images of the digits, each seed its own supernet and search."""
    space = load_space("digits")
    assert isinstance(space, Space)
    costs = CostModel(space)
    uniform = [Arch((each,) * len(space.blocks)) for each in space.blocks[0].candidates]
    rows: list[dict[str, Any]] = []
    for seed in harness.numbers(seeds):
        folder = out / f"s{seed}"
        winner = finished(folder, "quickstart", result="train/result.json", seed=seed)
        rival = min(uniform, key=lambda arch: abs(costs.flops(arch) - winner["flops"]))
        trained = finished(
            folder / "uniform", "train", arch=rival, inherit=folder / "supernet", seed=seed
        )
        row: dict[str, Any] = {"seed": seed}
        for name, result in (("winner", winner), ("uniform", trained)):
            row[f"{name}, MFLOPs"] = result["flops"] / 1e6
            row[f"{name}, test"] = 100 * result["test_accuracy"]
        rows.append(row | {"uniform arch": rival.blocks[0]})
    formats = dict.fromkeys(("winner, MFLOPs", "uniform, MFLOPs"), ".2f")
    yield Table(rows, formats | dict.fromkeys(("winner, test", "uniform, test"), ".2f"))
    points = [row["winner, test"] - row["uniform, test"] for row in rows]
    mean = {"points": harness.mean_interval(points), "n": len(points)}
    yield Table([mean], {}, "winner - uniform, mean over the seeds and its 95 % interval")


if __name__ == "__main__":
    harness.main(main)
