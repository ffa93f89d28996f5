"""Searches by gradient that differ in their seed alone: `mobilenas search --seeds`.

seed-N/              the run folder of each, as one search makes it
seed-N/output.txt    what its process printed (see `finish`)
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from mobilenas.base.errors import BadInput
from mobilenas.base.process import release_memory
from mobilenas.base.progress import ProgressBar
from mobilenas.runs import RunFolder
from mobilenas.runs.folder import check_for_runs, check_some_to_resume, is_run
from mobilenas.search.front import Learnt
from mobilenas.stages.finish import Finish, finish_runs
from mobilenas.stages.gradient_run import GradientRun
from mobilenas.workers import WorkersAsked


def parse_seeds(text: str) -> list[int]:
    """Different seeds from "0,1,2". Raises BadInput."""
    words = text.split(",")
    if not all(word.isdecimal() and len(word) < 20 and int(word) < 2**32 for word in words):
        raise BadInput(f"--seeds {text}: must be whole numbers below 2**32 such as 0,1,2")
    seeds = [int(word) for word in words]
    if len(set(seeds)) < len(seeds):
        raise BadInput(f"--seeds {text}: a seed stands twice")
    return seeds


def search_seeds(
    start: Callable[[Path, int], GradientRun],
    out: Path,
    seeds: Sequence[int],
    options: Sequence[str],
    workers: WorkersAsked,
    *,
    resume: bool = False,
    compared: bool = False,
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Search with each seed, as many at once as there are workers; what each found, a row a seed,
    and of those that failed how their processes ended.

    start: makes or opens the run in a folder of `out`. Where some are there and others are not, as
    after a kill, these must be the same but for the seed. options: of all processes. resume: some
    must be there. compared: whether the processes compare what is found with published accuracies,
    finished searches too. Raises BadInput.
    """
    check_for_runs(out)
    if resume:
        check_some_to_resume(out, [out / f"seed-{seed}" for seed in seeds], "search")
    runs: dict[int, RunFolder] = {}
    for seed in sorted(seeds, key=lambda seed: not is_run(out / f"seed-{seed}", "search")):
        path = out / f"seed-{seed}"
        is_new = not is_run(path, "search")
        runs[seed] = start(path, seed).folder
        first = next(iter(runs.values()))
        if _but_seed(runs[seed]) != _but_seed(first):
            if is_new:
                shutil.rmtree(path)
            raise BadInput(
                f"{path} would be another search than {first.path}: give the flags that it was "
                "started with"
            )
    release_memory()  # of images that the processes read themselves
    finish = Finish("search", tuple(options), workers.threads_each(torch.get_num_threads()))
    left = [
        run.path
        for run in runs.values()
        if not run.is_finished or (compared and not run.result(Learnt).standing)
    ]
    with ProgressBar("seeds", len(runs), len(runs) - len(left)) as bar:
        failed = finish_runs(left, finish, workers, lambda path: bar.advance(1, path.name))
    rows = []
    for seed, run in sorted(runs.items()):
        if run.is_finished:
            found: Learnt = run.result(Learnt)
            kept = {"passes": found.passes, "standing": found.standing}
            row = {"seed": seed, "run": str(run.path), **found.front[0].model_dump()}
            rows.append(row | kept)
    return rows, {path.name: end for path, end in failed.items()}


def _but_seed(run: RunFolder) -> dict[str, Any]:
    return {key: value for key, value in run.settings.items() if key != "seed"}
