"""Small searches by gradient, and the spaces that they are tested in."""

from pathlib import Path

from helpers import Call

from mobilenas.base.errors import BadInput
from mobilenas.cost.edge_model import costs_of
from mobilenas.space import load_network_space
from mobilenas.strategies.methods import METHODS
from mobilenas.strategies.searchable import Searchable

# The smallest search that is still one: ten steps.
SPACE = "macro:width=0.25,resolution=8"
SMALL = [
    f"--space={SPACE}",
    "--preset=cpu",
    "--set=batch_size=16",
    "--set=limit=160",
    "--set=validate_images=160",
    "--set=epochs=1",
    "--set=checkpoint_seconds=0",
    "--set=device=cpu",
]

CELLS = "nb201:channels=4,cells=1,resolution=8"
BUDGET = "--flops=0.2M"
CHEAPER = {
    "rome": ["--set=samples=2"],
    "shapley": ["--set=arch_every=3", "--set=orders=2", "--set=score_images=16"],
    "zarts": ["--set=arch_every=5", "--set=samples=2", "--set=inner_steps=2"],
    "svge": ["--set=labels=10", "--set=rounds=3", "--set=round_archs=3", "--set=vae_steps=20"],
}


def suited(name: str, reference: str) -> str:
    """A space of blocks, or CELLS where the strategy of that name does not take it."""
    strategy = METHODS[name].strategy
    try:
        strategy.check(Searchable(costs_of(load_network_space(reference))), strategy.Config())
    except BadInput:
        return CELLS
    return reference


def asked_for(name: str, tmp_path: Path, call: Call) -> list[str]:
    """The flags of a search by a strategy, below the median FLOPs of its space; where it goes on
    from another search, that is made.
    """
    space = suited(name, SPACE)
    budget = BUDGET if space == SPACE else "--flops=60k"
    flags = [*SMALL, *CHEAPER.get(name, []), f"--space={space}", budget]
    asked = ["search", f"--strategy={name}", *flags]
    if not METHODS[name].strategy.must_start_from:
        return asked
    parent = tmp_path / "parent"
    assert call("search", "--strategy=darts", *SMALL, f"--out={parent}").code == 0
    return [*asked, f"--from={parent}"]
