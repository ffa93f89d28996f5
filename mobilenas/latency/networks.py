"""Which networks of a space are timed: those that a table is fitted to, and those that test it."""

import numpy as np

from mobilenas.base.errors import BadInput
from mobilenas.base.randomness import Stream, generator
from mobilenas.cost.counts import candidate_count
from mobilenas.cost.latency import LatencyTable
from mobilenas.space import Arch, Genes, Space


def control_arch(space: Space) -> Arch:
    """The network that is timed again and again to see how quiet the machine is."""
    return space.sample(np.random.default_rng(0))


def design(space: Space, n: int, seed: int) -> list[Arch]:
    """n archs that a table is fitted to, or as many as the space has; the control is not one."""
    return _distinct(space, n, generator(seed, Stream.LATENCY_DESIGN), {str(control_arch(space))})


def held_out(space: Space, table: LatencyTable, n: int, seed: int) -> list[Arch]:
    """n archs that the table was not fitted to. Raises BadInput where there are not as many."""
    used = {*table.calibration.archs, str(control_arch(space))}  # maybe of another space
    archs = _distinct(space, n, generator(seed, Stream.LATENCY_CHECK), used)
    if len(archs) < n:
        raise BadInput(f"{space.name} has no {n} archs that the table was not fitted to")
    return archs


def _distinct(space: Space, n: int, rng: np.random.Generator, without: set[str]) -> list[Arch]:
    archs: dict[Arch, None] = {}
    for _ in range(100):
        drawn = (space.decode(genes) for genes in spread(space, n, rng))
        archs |= dict.fromkeys(arch for arch in drawn if str(arch) not in without)
        if len(archs) >= n:
            break
    return list(archs)[:n]


def spread(space: Space, n: int, rng: np.random.Generator) -> Genes:
    """Genes (n, blocks) from the cheapest archs to the costliest, in which each candidate of a
    block is chosen equally often.

    Candidates that are drawn for each block by itself add up to archs of about the same cost, and
    a search under a budget goes where none of them is. So the blocks of an arch have something in
    common: ranks among the candidates, by their FLOPs, of normal draws that correlate by a half.
    """
    of_arch = rng.standard_normal(n)
    columns = []
    for block in space.blocks:
        flops = [candidate_count(block, candidate).flops for candidate in block.candidates]
        ranks = np.argsort(np.argsort(of_arch + rng.standard_normal(n)))
        columns.append(np.argsort(flops, kind="stable")[ranks * len(flops) // n])
    return np.stack(columns, axis=1)
