"""Measuring archs through the weights of a supernet, by one worker or many.

What a worker measures of an arch depends on nothing but the arch, the weights, the images and the
number of its threads: not on the other workers, nor on the archs that it is given with it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mobilenas.base.errors import BadInput
from mobilenas.evaluate.evaluator import SupernetEvaluator
from mobilenas.evaluate.zero_cost import zero_cost_scores
from mobilenas.runs import RunFolder
from mobilenas.train.supernets import open_supernet_run
from mobilenas.workers import ONE_WORKER, Workers, WorkersAsked, open_workers
from mobilenas.workers.here import Here, Work

# What can be measured, and the figures that each arch then has.
ACCURACY = "accuracy"  # accuracy
INHERITED = "accuracy-inherited"  # accuracy, with the supernet's own batch norm statistics
SCORE = "score"  # accuracy, naswot
ZERO_COST_SCORES = "zero-cost"  # naswot, synflow

THREADS = "threads"  # of each worker, where a run says what measured it

Figures = dict[str, float]


@contextmanager
def arch_workers(
    asked: WorkersAsked, evaluator: SupernetEvaluator, seed: int, threads: int | None
) -> Iterator[Workers]:
    """Workers that measure archs by their text forms, as `measure_archs` does.

    threads: of each, None for as many as this process has. Raises BadInput.
    """
    before = torch.get_num_threads()
    threads = threads or before
    torch.set_num_threads(threads)
    try:
        if asked == ONE_WORKER:  # without a timeout none is needed that can be ended
            yield Workers(Here(partial(measure_archs, evaluator, seed)))
        else:
            opened = partial(_open, evaluator.place, evaluator.describe(), seed, threads)
            with open_workers(asked, opened, threads) as workers:
                yield workers
    finally:
        torch.set_num_threads(before)


def stored_threads(run: RunFolder) -> int | None:
    """Threads of each worker of a run, as its settings say; None of a run from before. Raises
    BadInput.
    """
    evaluator = run.settings.get("evaluator")
    threads = evaluator.get(THREADS) if isinstance(evaluator, dict) else None
    if threads is not None and not (type(threads) is int and threads > 0):
        raise BadInput(f"{run.path}: evaluator.{THREADS}: must be a number above 0, not {threads}")
    return threads


def measure_archs(
    evaluator: SupernetEvaluator, seed: int, what: str, archs: Sequence[str]
) -> list[Figures]:
    """The figures of each arch. seed: of the weights of untrained networks."""
    parsed = [evaluator.run.space.parse(arch) for arch in archs]
    if what == ZERO_COST_SCORES:
        images = evaluator.zero_cost_images
        return [zero_cost_scores(evaluator.untrained(arch, seed), images) for arch in parsed]
    naswots = evaluator.naswot(parsed, seed) if what == SCORE else []
    accuracies = evaluator(parsed) if what != INHERITED else evaluator(parsed, recalibrated=False)
    rows: list[Figures] = [{"accuracy": accuracy} for accuracy in accuracies]
    for row, naswot in zip(rows, naswots, strict=False):
        row["naswot"] = naswot
    return rows


def _open(place: tuple[str, str | None], expected: dict[str, Any], seed: int, threads: int) -> Work:
    """What a worker does first: it opens the supernet, and finds there what this process has.

    expected: as the evaluator of this process describes itself. Raises BadInput.
    """
    torch.set_num_threads(threads)
    supernet, data = place
    evaluator = SupernetEvaluator(open_supernet_run(Path(supernet), data=data))
    if evaluator.describe() != expected:
        raise BadInput(
            f"a worker has other weights or images in {supernet} than this process: the path must "
            "lead to the same files on all machines"
        )
    return partial(measure_archs, evaluator, seed)
