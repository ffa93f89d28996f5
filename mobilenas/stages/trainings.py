"""Stand-alone trainings of many archs of a space, each in a process of its own.

trainings/ARCH/             the run folder of `mobilenas train`
trainings/ARCH/output.txt   what its process printed (see `finish`)
truth.csv                   arch, accuracy, validation_images, checksums of those that are done
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mobilenas.base.files import file_name, write_text
from mobilenas.base.process import release_memory
from mobilenas.base.progress import ProgressBar
from mobilenas.evaluate.truth import DATA_CHECKSUM, SPACE_CHECKSUM, space_checksum
from mobilenas.runs import RunFolder
from mobilenas.runs.folder import is_run
from mobilenas.space import space_from_dict
from mobilenas.stages.finish import Finish, finish_runs
from mobilenas.stages.train import create_network_run
from mobilenas.train.networks import NetworkResult, NetworkSettings
from mobilenas.workers import WorkersAsked

TRUTH_FILE = "truth.csv"
COLUMNS = ("arch", "accuracy", "validation_images", DATA_CHECKSUM, SPACE_CHECKSUM)
_SHARED = ("space", "seed", "config", "inherit")  # settings of all trainings
_TRAININGS = "trainings"


class Trainings(NamedTuple):
    """rows: of all archs that a folder has the training of, by FLOPs: COLUMNS and flops; accuracies
    in 0..1. failed: of the archs that were to be trained now, how the process of each ended.
    """

    rows: list[dict[str, Any]]
    failed: dict[str, str]


def create_trainings(folder: Path, archs: Sequence[str], plan: NetworkSettings) -> list[RunFolder]:
    """The run folders of the trainings of archs, made where they are not there yet.

    plan: the settings of each, whose arch is replaced. Data, recipe and weights are checked before
    any training starts. Raises BadInput, also where a training was started with other settings.
    """
    images, runs = None, []
    space = space_from_dict(plan.space)
    for arch in archs:
        space.parse(arch)
    for arch in archs:
        path, settings = (
            folder / _TRAININGS / file_name(arch),
            plan.model_copy(update={"arch": arch}),
        )
        if is_run(path, "train"):
            runs.append(_started(path, plan))
        else:
            run = create_network_run(path, settings, images)
            images = run.images
            runs.append(run.folder)
    return runs


def _started(path: Path, plan: NetworkSettings) -> RunFolder:
    """A training that is there. Raises BadInput unless it has the settings of the plan."""
    run = RunFolder.open(path, "train")
    settings = run.read(NetworkSettings)
    classes = {"num_classes": settings.space["num_classes"]}  # those of the data
    moved = {"inherit": settings.inherit} if settings.inherit and plan.inherit else {}
    same = plan.model_copy(update={"space": plan.space | classes, **moved})
    run.as_read(settings).check_same({k: getattr(same, k) for k in _SHARED})
    return run


def train_archs(
    folder: Path,
    archs: Sequence[str],
    plan: NetworkSettings,
    *,
    workers: WorkersAsked,
    threads: int,
) -> Trainings:
    """Train archs, as many at once as there are workers, with so many threads each, and note all in
    the truth file.

    What the folder has is kept and continued, trainings of other archs too. plan: as
    `create_trainings` takes it; its data and inherit are where these are now. See `finish_runs`.
    Raises BadInput, which ends the other trainings.
    """
    runs = create_trainings(folder, archs, plan)
    release_memory()  # of images that the processes read themselves
    left = [run.path for run in runs if not run.is_finished]
    options = ["--data", plan.data, *(["--inherit", plan.inherit] if plan.inherit else [])]
    with ProgressBar("truth", len(runs), len(runs) - len(left)) as bar:

        def note(path: Path) -> None:
            _write_truth(folder)
            accuracy = RunFolder.open(path, "train").result(NetworkResult).last_accuracy
            bar.advance(1, f"{path.name} {100 * accuracy:.2f} %")

        failed = finish_runs(left, Finish("train", tuple(options), threads), workers, note)
    return Trainings(_write_truth(folder), {path.name: end for path, end in failed.items()})


def _write_truth(folder: Path) -> list[dict[str, Any]]:
    rows = []
    for path in (folder / _TRAININGS).iterdir():
        run = RunFolder.open(path, "train") if is_run(path, "train") else None
        if run is not None and run.is_finished:
            result = run.result(NetworkResult)
            row = result.model_dump(include={"arch", "validation_images", "flops"})
            row |= {"accuracy": result.last_accuracy}
            row[DATA_CHECKSUM] = run.fact("data_checksum", int)
            row[SPACE_CHECKSUM] = space_checksum(space_from_dict(run.settings["space"]))
            rows.append(row)
    rows.sort(key=lambda row: (row["flops"], row["arch"]))
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / TRUTH_FILE, table.getvalue())
    return rows
