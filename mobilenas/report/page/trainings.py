"""Of trainings what a page shows: curves and accuracies, and average precisions of detectors."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from mobilenas.base.files import read_jsonl
from mobilenas.report.page.found import FoundRun
from mobilenas.report.page.shapes import (
    Asked,
    Detected,
    Logged,
    Step,
    Trained,
    Truths,
    Validated,
    plain,
    plain_rows,
)

Part = dict[str, Any]

_MACHINE = {"checkpoint_seconds", "device", "memory_format", "workers"}  # keys of no recipe
_PICTURES = 8  # drawings of detections that a page has at most


def read_training(found: FoundRun) -> Part:
    """The curves of a supernet, a search by gradient or a network; x: passes over the images."""
    run = found.opened
    asked = run.read(Asked)
    rows = plain_rows(read_jsonl(run.path / "log.jsonl", Logged))
    part: Part = {
        "kind": run.kind,
        "space": asked.space.name,
        "resolution": asked.space.resolution,
        "arch": asked.arch,
        "seed": asked.seed,
        "finished": run.is_finished,
        "seconds": run.seconds,
        "curves": {
            key: [[_passes(row), row[key]] for row in rows if row.get(key) is not None]
            for key in ("loss", "accuracy")
        },
    }
    if run.is_finished and run.kind == "train":
        return part | {"result": plain(run.result(Trained)), "recipe": _recipe(asked, run.facts)}
    if run.is_finished and run.kind == "supernet":
        return part | plain(run.result(Validated))
    return part


def _recipe(asked: Asked, facts: Part) -> str:
    """What the trainings of one arch must have in common to be repeats of one another: how they are
    trained, on what images and from what kind of weights, not the seed, the machine or the places
    of files.
    """
    config = {k: x for k, x in asked.config.items() if k not in _MACHINE}
    start = [asked.inherit is not None, asked.weights is not None]
    return json.dumps([config, start, facts.get("data_checksum")], sort_keys=True)


def best_recipe(results: Mapping[str, Sequence[Part]]) -> Part:
    """The trainings of one arch by their recipes as one result: that of the recipe of the highest
    mean accuracy, with `recipes`, how many there are if several.
    """
    best = max(map(together, results.values()), key=lambda result: result["accuracy"])
    return best | ({"recipes": len(results)} if len(results) > 1 else {})


def together(results: Sequence[Part]) -> Part:
    """The results of the trainings of one arch by one recipe as one: a single one as it is; of
    several the means of their accuracies, with `_sd` their standard deviations, `trainings`, how
    many they are, and the fewest images that one was measured on.
    """
    if len(results) == 1:
        return results[0]
    merged = results[0] | {"trainings": len(results)}
    for images, names in (
        ("validation_images", ("accuracy", "last_accuracy")),
        ("test_images", ("test_accuracy",)),
    ):
        merged[images] = min(result[images] for result in results)
        for name in names if merged[images] else ():
            shares = [result[name] for result in results]
            merged |= {name: fmean(shares), f"{name}_sd": stdev(shares)}
    return merged


def read_truth(found: FoundRun) -> Part:
    """Stand-alone accuracies of several archs."""
    return {"archs": plain(found.opened.result(Truths))["archs"], "finished": True}


def read_detector(found: FoundRun) -> Part:
    """A detector's precisions, its losses, and the pictures that it has drawn."""
    run = found.opened
    rows = [
        row
        for path in sorted(run.path.glob("mmengine/*/vis_data/scalars.json"))
        for row in plain_rows(read_jsonl(path, Step))
    ]
    part: Part = {
        "finished": run.is_finished,
        "curves": {"loss": [[row["step"], row["loss"]] for row in rows if "loss" in row]},
        "pictures": [str(path) for path in _pictures(run.path / "predictions")],
    }
    return part | {"result": plain(run.result(Detected))} if run.is_finished else part


def _passes(row: Part) -> float:
    return float(row["passes"] if "passes" in row else row["epoch"])


def _pictures(folder: Path) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg")]
    return sorted(files)[:_PICTURES]
