"""Searches by gradient on NAS-Bench-201: what cells they end in, by its published accuracies.

Each strategy searches with the op `none` among the candidates and without it, once for each seed.
One that goes on from another search takes that of darts. Runs continue where they stopped; several
processes may share an OUT, each with seeds of its own.

    python benchmarks/strategies.py --data CIFAR10 --data-root DIR --out runs/strategies
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import harness
import numpy as np
import typer
from harness import Data, DataRoot, Table
from trainings import finished

from mobilenas.base.files import read_json
from mobilenas.evaluate.nb201 import DATA_SETS, NB201, read_nb201
from mobilenas.space import load_listed_space
from mobilenas.strategies.methods import METHODS

VARIANTS = {
    "with": "",
    "without": ",ops=[skip_connect,nor_conv_1x1,nor_conv_3x3,avg_pool_3x3]",
}
LABELS = 100  # archs that are drawn for svge
QUARTERS = (0.25, 0.5, 0.75, 1.0)  # of the steps


def main(
    data: Data,
    data_root: DataRoot,
    space: str = "nb201:channels=4,cells=1,resolution=8",
    strategies: Annotated[
        str, typer.Option(help="By commas; each may have settings: NAME:KEY=VALUE:KEY=VALUE.")
    ] = "darts,gdas,proxyless,parsec",
    variants: Annotated[str, typer.Option(help="Of the op none, by commas.")] = "with,without",
    preset: str = "cpu-tiny",
    seeds: str = "0,1,2,3,4",
    out: Path = Path("runs/strategies"),
) -> Iterator[Table]:
    """Accuracies of derived cells, and how they came to be."""
    rows = []
    for variant in variants.split(","):
        ops = VARIANTS[variant]
        searched = load_listed_space(space + ops)
        asked: dict[str, Any] = {"space": space + ops, "data": data, "preset": preset}
        asked |= {"benchmark": "nb201", "data_root": data_root}
        truths = read_nb201(data_root, searched)
        for each in strategies.split(","):
            found = searches(each, asked, seeds, out, f"-{variant}")
            rows.append({"strategy": each, "none": variant} | row(found))
            if each.startswith("svge"):
                best = {"strategy": f"the best of {LABELS} cells through the supernet of {each}"}
                rows.append(best | {"none": variant} | best_measured(found, truths))
        within = truths.within(searched)  # type: ignore[arg-type]
        rivals: dict[str, Any] = {"strategy": "a random cell", "none": variant}
        for name in DATA_SETS:
            values = 100 * truths.truths[name].accuracy[within]
            rivals[name] = f"{values.mean():.2f} ± {values.std():.2f}"
        rivals["median"] = float(np.median(100 * truths.truths["cifar10"].accuracy[within]))
        rows.append(rivals)
    yield Table(rows, {"median": ".2f", "regret": ".2f", "params": ",.0f", "passes": ".1f"})


def searches(
    strategy: str, asked: dict[str, Any], seeds: str, out: Path, variant: str = ""
) -> dict[Path, Any]:
    """What searches came to, by their folders. strategy: NAME:KEY=VALUE:KEY=VALUE. asked: options
    of the command. One that goes on from another has its space and data from that of darts.
    """
    name, *settings = strategy.split(":")
    found = {}
    for seed in harness.numbers(seeds):
        options = asked | {"strategy": name, "seed": seed, "set": settings}
        if METHODS[name].strategy.must_start_from:
            options["from"] = out / f"darts{variant}-s{seed}"
            del options["space"], options["data"]
        folder = out / f"{'-'.join([name, *settings])}{variant}-s{seed}"
        found[folder] = finished(folder, "search", result="front.json", **options)
    return found


def row(found: dict[Path, Any]) -> dict[str, Any]:
    """Of several seeds: accuracies in percent, mean ± sd; regret in points among cells with at most
    as many params, CIFAR-10; p(skip) after each quarter of the steps.
    """
    cells = [each["front"][0] for each in found.values()]
    standing = [each["standing"] for each in found.values()]
    skips = [len(re.findall("skip_connect", cell["arch"])) for cell in cells]
    logs = [architecture_log(folder) for folder in found]
    share = [np.mean([at(log, quarter) for log in logs]) for quarter in QUARTERS]
    by_set = {name: [x[name]["accuracy"] for x in standing] for name in DATA_SETS}
    return (
        accuracies(by_set)
        | {
            "skips": " ".join(map(str, skips)),
            "p(skip)": " ".join(f"{x:.2f}" for x in share),
            "params": np.mean([cell["params"] for cell in cells]),
            "regret": 100 * np.mean([x["cifar10"]["regret"]["params"] for x in standing]),
        }
        | spent(found)
    )


def best_measured(found: dict[Path, Any], truths: NB201) -> dict[str, Any]:
    """Of several seeds: accuracies of the cell that did best in the supernet of svge, among those
    that were drawn before any was searched.
    """
    ops = np.array(truths.space.spec.ops)[truths.genes]
    cells = {f"ops {' '.join(own)}": place for place, own in enumerate(ops)}
    places = []
    for folder in found:
        lines = [json.loads(line) for line in (folder / "labels.jsonl").read_text().splitlines()]
        labels = [
            (accuracy, -loss, name)
            for line in lines
            for accuracy, loss, name in zip(
                line["accuracy"], line["loss"], line["without"], strict=True
            )
        ]
        places.append(cells[max(labels[:LABELS])[-1]])
    return accuracies({name: truths.truths[name].accuracy[places] for name in DATA_SETS})


def accuracies(found: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """In percent, of several seeds by data set: mean ± sd, of CIFAR-10 the median and each."""
    percent = {name: 100 * np.array(values) for name, values in found.items()}
    return {
        **{name: harness.mean_sd(values) for name, values in percent.items()},
        "median": float(np.median(percent["cifar10"])),
        "each": " ".join(f"{x:.2f}" for x in percent["cifar10"]),
    }


def spent(found: dict[Path, Any]) -> dict[str, Any]:
    """Passes and minutes of searches."""
    passes = np.mean([each["passes"] for each in found.values()])
    return {"passes": passes, "minutes": minutes(found)}


def minutes(folders: Iterable[Path]) -> str:
    """Of training, over runs."""
    spent = [read_json(folder / "timing.json")["seconds"] / 60 for folder in folders]
    return harness.mean_sd(spent, 1)


def architecture_log(folder: Path) -> list[dict[str, Any]]:
    """The rows of a search's log that say where the architecture stood."""
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [each for each in rows if "skip" in each]


def at(log: list[dict[str, Any]], share: float) -> float:
    """p(skip) when that share of the steps was done."""
    last = log[-1]["step"]
    return float(next(each["skip"] for each in log if each["step"] >= share * last))


if __name__ == "__main__":
    harness.main(main)
