"""Of trainings what a page shows: curves and accuracies, and average precisions of detectors."""

from pathlib import Path
from typing import Any

from mobilenas.base.files import read_jsonl
from mobilenas.report.page.found import FoundRun

Part = dict[str, Any]

_PICTURES = 8  # drawings of detections that a page has at most


def read_training(found: FoundRun) -> Part:
    """The curves of a supernet, a search by gradient or a network; x: passes over the images."""
    assert found.run is not None
    run, settings = found.run, found.run.settings
    rows = read_jsonl(run.path / "log.jsonl")
    part: Part = {
        "kind": run.kind,
        "space": settings["space"]["name"],
        "arch": settings.get("arch"),
        "seed": settings["seed"],
        "finished": run.is_finished,
        "seconds": run.seconds,
        "curves": {
            key: [[_passes(row), row[key]] for row in rows if row.get(key) is not None]
            for key in ("loss", "accuracy")
        },
    }
    if run.is_finished and run.kind == "train":
        return part | {"result": run.result()}
    if run.is_finished and run.kind == "supernet":
        return part | {"validation": run.result()["validation"], "images": _validation(found)}
    return part


def read_truth(found: FoundRun) -> Part:
    """Stand-alone accuracies of several archs."""
    assert found.run is not None
    return {"archs": found.run.result()["archs"], "finished": True}


def read_detector(found: FoundRun) -> Part:
    """A detector's precisions, its losses, and the pictures that it has drawn."""
    assert found.run is not None
    run = found.run
    rows = [
        row
        for path in sorted(run.path.glob("mmengine/*/vis_data/scalars.json"))
        for row in read_jsonl(path)
    ]
    part: Part = {
        "finished": run.is_finished,
        "curves": {"loss": [[row["step"], row["loss"]] for row in rows if "loss" in row]},
        "pictures": [str(path) for path in _pictures(run.path / "predictions")],
    }
    return part | {"result": run.result()} if run.is_finished else part


def _passes(row: Part) -> float:
    return float(row["passes"] if "passes" in row else row["epoch"])


def _validation(found: FoundRun) -> int | None:
    """How many validation images a supernet has."""
    assert found.run is not None
    count: int | None = found.run.settings["config"].get("validate_images")
    return count


def _pictures(folder: Path) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg")]
    return sorted(files)[:_PICTURES]
