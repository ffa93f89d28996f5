"""True accuracies for `mobilenas rank --truth`: n archs of a space, each trained alone.

The archs are drawn as `arch sample` draws them and stratified over FLOPs. Each becomes a space of
its own that offers nothing else, so that the same code and recipe train it as the supernet. Runs
that are there are kept, unfinished ones are continued; truth.csv appears with the last. Accuracies
are of validation images, with the statistics that training gathered. Give a seed that no supernet
has, or its validation images are the same and their noise counts twice. Archs with an identity will
not do.

    python benchmarks/train_alone.py --space s1:width=0.125,stem.stride=2 --data DIR -n 24 --out OUT
"""

import argparse
import csv
import io
from pathlib import Path
from typing import Any

import numpy as np

from mobilenas.base.files import read_json, write_text
from mobilenas.base.process import tune_process
from mobilenas.cost import CostModel
from mobilenas.pipeline import open_or_create, run_supernet
from mobilenas.rank.strata import stratified
from mobilenas.space import Arch, Space, load_space, space_from_dict
from mobilenas.train.config import load_supernet_config

DRAWN = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--space", default="s1")
    parser.add_argument("--data", required=True)
    parser.add_argument("-n", type=int, default=24)
    parser.add_argument("--config", default="ranking-cpu")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of the archs to train here")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    tune_process()
    space = load_space(options.space)
    config = load_supernet_config(
        options.config, ["sampler=uniform", "bn=shared", *options.settings]
    )
    archs = draw(space, options.n, options.seed)
    for number in options.only or range(len(archs)):
        folder = options.out / f"{number:02}"
        alone = only(space, archs[number])
        run = open_or_create(folder, alone, options.data, options.seed, config)
        if not (folder / "result.json").exists():
            run_supernet(run)
    results = [options.out / f"{number:02}" / "result.json" for number in range(len(archs))]
    if all(path.exists() for path in results):
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["arch", "accuracy"])
        for path in results:
            row = read_json(path)["validation"][0]
            writer.writerow([row["arch"], row["accuracy_inherited_bn"]])
        write_text(options.out / "truth.csv", table.getvalue())


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
    main()
