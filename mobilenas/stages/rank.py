"""Does a supernet order networks as stand-alone training does? `mobilenas rank`.

run.json            what is ranked: weights, ground truth; the archs that were drawn
predictions.jsonl   one line an arch, synced after each group of archs
zero_cost.jsonl     scores of the untrained networks, likewise
rank.json           the figures, and what they rest on, arch by arch
rank.png            predicted against true accuracy
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mobilenas.base.errors import BadInput, WorkFailed
from mobilenas.base.files import append_jsonl, read_jsonl
from mobilenas.base.progress import ProgressBar
from mobilenas.base.settings import Number, Record, Share
from mobilenas.evaluate.evaluator import SupernetEvaluator
from mobilenas.evaluate.published_truth import read_benchmark
from mobilenas.evaluate.trie import AT_ONCE
from mobilenas.evaluate.truth import Truth, read_truth
from mobilenas.evaluate.workers import (
    ACCURACY,
    INHERITED,
    THREADS,
    ZERO_COST_SCORES,
    arch_workers,
    stored_threads,
)
from mobilenas.rank.metrics import MIN_EVIDENCE, default_budgets, rank_metrics, regrets
from mobilenas.rank.strata import stratified
from mobilenas.report.rank import plot_ranking
from mobilenas.runs import RunFolder
from mobilenas.search.problem import score
from mobilenas.space import AnyArch, any_space_from_dict
from mobilenas.train.supernets import SupernetSettings, open_supernet_run
from mobilenas.workers import ONE_WORKER, Workers, WorkersAsked, even_groups

PREDICTIONS, ZERO_COST = "predictions.jsonl", "zero_cost.jsonl"
SUPERNET, NASWOT = "supernet", "naswot"  # names of predictors in rank.json

Floats = NDArray[np.float64]


class _Prediction(Record):
    """A line of predictions.jsonl."""

    arch: str
    accuracy: Share


class _Scores(Record):
    """A line of zero_cost.jsonl."""

    arch: str
    naswot: Number
    synflow: Number


@dataclass(frozen=True)
class Ranking:
    """What is asked for: n archs drawn by seed, with recalibrated batch norms or inherited ones.

    zero_cost: whether untrained networks are scored too, for some seconds an arch.
    """

    n: int
    seed: int
    recalibrated: bool
    zero_cost: bool


def run_rank(
    supernet: Path,
    truth: Path | None,
    benchmark: str | None,
    data_root: Path | None,
    asked: Ranking,
    out: Path,
    *,
    resume: bool,
    data: str | None = None,
    workers: WorkersAsked = ONE_WORKER,
) -> dict[str, Any]:
    """Rank a trained supernet against a file of accuracies, or else against a benchmark.

    data: the images of the supernet, where they have moved. workers: who measures archs.
    """
    if resume:
        RunFolder.to_resume(out, "rank")
    trained = RunFolder.open(supernet, "supernet")
    space = any_space_from_dict(trained.read(SupernetSettings).space)
    if truth is not None:
        known = read_truth(truth, space, trained)
    else:
        known = read_benchmark(benchmark or "", data_root, space)
    trained.check_finished()
    evaluator = SupernetEvaluator(open_supernet_run(supernet, data=data))
    return rank(evaluator, known, asked, out, resume=resume, workers=workers)


def rank(
    evaluator: SupernetEvaluator,
    truth: Truth,
    asked: Ranking,
    out: Path,
    *,
    resume: bool,
    workers: WorkersAsked = ONE_WORKER,
) -> dict[str, Any]:
    """Compare a supernet's accuracies with true ones; the figures are also written to `out`.

    The archs are drawn from those of the truth, stratified over FLOPs, whatever their accuracy.
    FLOPs and params are predictors beside the supernet; if asked for, also two zero-cost scores and
    the score that a search can go by, of the supernet and NASWOT. An arch that cannot be measured
    is left out, which the figures say; a resume tries it again.
    Raises BadInput for a folder that holds another ranking.
    """
    folder = evaluator.run.folder.path.resolve()
    found = evaluator.run.images.data.found.to_dict()
    rows = stratified(truth.costs["flops"], asked.n, asked.seed)
    threads: int | None = workers.threads_each(torch.get_num_threads())
    if resume:
        threads = stored_threads(RunFolder.to_resume(out, "rank"))
    measured_by = evaluator.describe() | ({} if threads is None else {THREADS: threads})
    settings = {
        "n": asked.n,
        "seed": asked.seed,
        "recalibrated": asked.recalibrated,
        "truth": truth.source,
        "evaluator": measured_by,
    }
    run = RunFolder.start_or_resume(
        out,
        "rank",
        settings,
        resume=resume,
        parents={"supernet": folder},
        facts={
            "archs": [str(truth.archs[i]) for i in rows],
            "accuracies": truth.accuracy[rows].tolist(),
            "data": found,
        },
    )
    # Those that were drawn when the ranking was started.
    drawn = run.fact("archs", list[str])
    places = {str(arch): i for i, arch in enumerate(truth.archs)}
    rows = np.array([places[arch] for arch in drawn if arch in places])
    if len(rows) < len(drawn):
        raise BadInput(f"{truth.source} lacks archs that {out} was started with")
    # Runs of before have no accuracies.
    before = run.fact("accuracies", list[float]) if "accuracies" in run.facts else None
    if before not in (None, truth.accuracy[rows].tolist()):
        raise BadInput(f"{truth.source} has other accuracies of archs than {out} was started with")
    archs = [truth.archs[i] for i in rows]

    with arch_workers(workers, evaluator, asked.seed, threads) as found_by:
        what = ACCURACY if asked.recalibrated else INHERITED
        ranked = _Measured(out / PREDICTIONS, archs, _Prediction)
        ranked.complete(found_by, what, "rank", AT_ONCE)
        scored = _Measured(out / ZERO_COST, archs, _Scores)
        if asked.zero_cost:
            scored.complete(found_by, ZERO_COST_SCORES, "zero-cost scores", 1)
    left_out = ranked.left_out | scored.left_out
    kept = [i for i, arch in enumerate(archs) if str(arch) not in left_out]
    if not kept:
        why = next(iter(left_out.values()))
        raise WorkFailed(f"none of {len(archs)} archs could be measured: {why}")
    rows, archs = rows[kept], [archs[i] for i in kept]
    predicted = ranked.columns(archs)["accuracy"]
    actual = truth.accuracy[rows]
    costs = {name: values[rows].astype(float) for name, values in truth.costs.items()}
    predictors = {SUPERNET: predicted, **costs}
    if asked.zero_cost:
        scores = scored.columns(archs)
        both = np.column_stack([predicted, scores[NASWOT]])
        predictors |= scores | {f"{SUPERNET}+{NASWOT}": score(both, both)}
    flops = costs["flops"]
    result = {
        "space": evaluator.run.space.name,
        "supernet": {
            "folder": str(folder),
            "config": evaluator.run.settings.config.model_dump(mode="json"),
        },
        "truth": truth.source,
        "networks": len(truth.archs),
        "ceiling": truth.ceiling,
        **asdict(asked),
        "n": len(archs),  # all there are, where more were asked for
        "min_evidence": MIN_EVIDENCE,
        "evaluator": measured_by,
        "data": found,
        "predictors": {
            name: rank_metrics(values, actual, flops, seed=asked.seed).to_dict()
            for name, values in predictors.items()
        },
        "regret": {
            name: [asdict(x) for x in regrets(values, actual, flops, default_budgets(flops))]
            for name, values in predictors.items()
        },
        "archs": [
            {"arch": str(arch), "truth": float(actual[i])}
            | {name: float(values[i]) for name, values in predictors.items()}
            for i, arch in enumerate(archs)
        ],
        **({"left_out": left_out} if left_out else {}),
    }
    plot_ranking(out / "rank.png", result)
    run.store_result(result)
    return result


class _Measured:
    """What is measured of archs and written to a file; what the file has is not measured again.

    left_out: the archs that could not be measured, and why.
    """

    def __init__(
        self, path: Path, archs: Sequence[AnyArch], shape: type[_Prediction | _Scores]
    ) -> None:
        self._path, self._archs = path, archs
        self._names = sorted(shape.model_fields.keys() - {"arch"})
        rows = read_jsonl(path, shape)
        self._known = {row.arch: row.model_dump(exclude={"arch"}) for row in rows}
        self.left_out: dict[str, str] = {}

    def complete(self, workers: Workers, what: str, title: str, at_once: int) -> None:
        """Measure the archs that the file lacks, at most so many together."""
        # Neighbours in this order share most of their work.
        left = sorted(str(arch) for arch in self._archs if str(arch) not in self._known)
        with ProgressBar(title, len(self._archs), len(self._known)) as bar:
            for outcome in workers(what, even_groups(left, at_once, workers.count)):
                if outcome.results is None:
                    self.left_out |= dict.fromkeys(outcome.items, outcome.why)
                else:
                    found = dict(zip(outcome.items, outcome.results, strict=True))
                    append_jsonl(self._path, ({"arch": a, **x} for a, x in found.items()))
                    self._known |= found
                bar.advance(len(outcome.items), f"{len(self._known)} archs")

    def columns(self, archs: Sequence[AnyArch]) -> dict[str, Floats]:
        """Of archs that have been measured: (archs,) by name."""
        return {
            name: np.array([self._known[str(arch)][name] for arch in archs]) for name in self._names
        }
