"""Short searches by gradient in the space of DARTS: which cells each strategy ends in.

A thousand steps say little about accuracy, and none is measured; they show that each strategy ends
in a legal genotype, how large its network of 20 cells with 36 channels would be (CIFAR-10), and how
many shortcuts its cells have. One that goes on from another search takes that of darts.

    python benchmarks/strategies_darts.py --data CIFAR10 --out runs/strategies-darts
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import harness
import typer
from harness import Data, Table
from strategies import searches, spent

from mobilenas.cost.edge_model import EdgeCellCosts
from mobilenas.space import EdgeCellSpace, Genotype, load_listed_space
from mobilenas.strategies.methods import METHODS

FULL = "darts:channels=36,cells=20,num_classes=10"  # what Liu et al. train on CIFAR-10


def main(
    data: Data,
    space: str = "darts:channels=8,cells=4,resolution=16",
    strategies: Annotated[
        str, typer.Option(help="By commas; each may have settings: NAME:KEY=VALUE:KEY=VALUE.")
    ] = ",".join(name for name in METHODS if name != "svge"),  # which cannot choose edges
    preset: str = "cpu-tiny",
    seeds: str = "0,1",
    out: Path = Path("runs/strategies-darts"),
) -> Iterator[Table]:
    """Genotypes, by what they are made of."""
    full = load_listed_space(FULL)
    assert isinstance(full, EdgeCellSpace)
    costs = EdgeCellCosts(full)
    asked: dict[str, Any] = {"space": space, "data": data, "preset": preset}
    rows: list[dict[str, Any]] = []
    for each in strategies.split(","):
        found = searches(each, asked, seeds, out)
        archs = [full.parse(result["front"][0]["arch"]) for result in found.values()]
        params = (costs.of(arch)["params"] / 1e6 for arch in archs)
        rows.append(
            {
                "strategy": each,
                "shortcuts, normal and reduction cell": "; ".join(map(shortcuts, archs)),
                "params": " ".join(f"{millions:.2f}M" for millions in params),
            }
            | spent(found)
        )
    yield Table(rows, {"passes": ".2f"})


def shortcuts(arch: Genotype) -> str:
    """How many of the eight edges of each type of cell are shortcuts."""
    ops = ([op for node in cell for op, _ in node] for cell in arch.cells)
    return " ".join(str(each.count("skip_connect")) for each in ops)


if __name__ == "__main__":
    harness.main(main)
