"""The ground truth for `mobilenas rank --truth`: n archs of a space, each trained stand-alone.

The archs are stratified over FLOPs. Each becomes a space of its own that offers nothing else, so
that the same code and recipe train it as the supernet. Runs that are there are kept, unfinished
ones are continued; OUT/truth.csv is of all. Accuracies are of validation images, with the
statistics that training gathered. Give a seed that no supernet has, or its validation images are
the same and their noise counts twice. Archs with an identity will not do.

    python benchmarks/truth.py --space s1:width=0.125,stem.stride=2 --data DIR -n 24 --out OUT
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import harness
import numpy as np
import typer
from harness import Data, Set, Table
from trainings import finished, space_file

from mobilenas.base.files import write_text
from mobilenas.cost import CostModel
from mobilenas.rank.strata import stratified
from mobilenas.space import Arch, Space, load_space, space_from_dict

DRAWN = 2000


def main(
    data: Data,
    space: str = "s1:width=0.125,stem.stride=2",
    n: Annotated[int, typer.Option("-n")] = 24,
    preset: str = "ranking-cpu",
    settings: Set = None,
    seed: int = 0,
    out: Path = Path("runs/truth"),
) -> Iterator[Table]:
    """Accuracies of archs that are trained stand-alone, by a preset of supernets."""
    whole, rows = load_space(space), []
    changes = ["strategy=uniform", "bn=shared", *(settings or [])]
    flags: dict[str, Any] = {"data": data, "preset": preset, "seed": seed, "set": changes}
    for number, arch in enumerate(draw(whole, n, seed)):
        folder = out / f"{number:02}"
        single = space_file(only(whole, arch), out / f"{number:02}.yaml")
        result = finished(folder, "supernet-train", space=single, **flags)
        trained = result["validation"][0]
        rows.append({"arch": str(arch), "accuracy": trained["accuracy_inherited_bn"]})
    lines = [f"{row['arch']},{row['accuracy']}\n" for row in rows]
    write_text(out / "truth.csv", "".join(["arch,accuracy\n", *lines]))
    yield Table(rows, {"accuracy": ".2%"})


def draw(space: Space, n: int, seed: int) -> list[Arch]:
    """n distinct networks, stratified over FLOPs. Each has tastes of its own: drawn block by block
    from all candidates, archs of twelve blocks are all alike on average.
    """
    rng = np.random.default_rng(seed)
    drawn = list(dict.fromkeys(space.canonical(with_tastes(space, rng)) for _ in range(DRAWN)))
    flops = CostModel(space).flops_batch(np.stack([space.encode(arch) for arch in drawn]))
    return [drawn[row] for row in stratified(flops, n, seed)]


def with_tastes(space: Space, rng: np.random.Generator) -> Arch:
    """Blocks drawn from the candidates of a drawn set of kernels, expansions and path counts."""
    candidates = [block.candidates for block in space.blocks if block.searchable]
    every = [c for block in candidates for c in block]
    kernels = subset(rng, sorted({k for c in every for group in c.kernels for k in group}))
    expansions = subset(rng, sorted({c.expansion for c in every}))
    paths = rng.integers(1, len(kernels) + 1)
    chosen = []
    for block in candidates:
        liked = [
            c
            for c in block
            if c.expansion in expansions
            and c.num_paths <= paths
            and all(set(group) <= kernels for group in c.kernels)
        ]
        chosen.append(liked[rng.integers(len(liked))])
    return Arch(tuple(chosen))


def subset(rng: np.random.Generator, values: list[int]) -> set[int]:
    """Some of the values, at least one; every size is as likely."""
    return set(rng.permutation(values)[: rng.integers(1, len(values) + 1)].tolist())


def only(space: Space, arch: Arch) -> Space:
    """A space that holds this arch alone."""
    chosen = iter(arch.blocks)
    stages: list[dict[str, Any]] = []
    for stage in space.to_dict()["stages"]:
        for position in range(stage["blocks"]):
            single = stage | {"blocks": 1, "stride": stage["stride"] if position == 0 else 1}
            if stage["fixed"] is None:
                single["candidates"] = [str(next(chosen))]
            stages.append(single)
    name = f"{space.name}, only {arch}"
    return space_from_dict(space.to_dict() | {"name": name, "stages": stages})


if __name__ == "__main__":
    harness.main(main)
