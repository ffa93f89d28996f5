"""Does a supernet order networks as stand-alone training does? `mobilenas rank`.

run.json            what is ranked: weights, ground truth; the archs that were drawn
predictions.jsonl   one line an arch, synced after each group of archs
zero_cost.jsonl     scores of the untrained networks, likewise
rank.json           the figures, and what they rest on, arch by arch
rank.png            predicted against true accuracy
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenas.base.errors import BadInput
from mobilenas.base.files import append_jsonl, read_jsonl
from mobilenas.base.progress import ProgressBar
from mobilenas.base.settings import Number, Record, Share
from mobilenas.evaluate.evaluator import SupernetEvaluator
from mobilenas.evaluate.published_truth import read_benchmark
from mobilenas.evaluate.trie import AT_ONCE
from mobilenas.evaluate.truth import Truth, read_truth
from mobilenas.evaluate.zero_cost import zero_cost_scores
from mobilenas.rank.metrics import MIN_EVIDENCE, default_budgets, rank_metrics, regrets
from mobilenas.rank.strata import stratified
from mobilenas.report.rank import plot_ranking
from mobilenas.runs import RunFolder
from mobilenas.search.problem import score
from mobilenas.space import AnyArch, any_space_from_dict
from mobilenas.train.supernets import SupernetSettings, open_supernet_run

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
) -> dict[str, Any]:
    """Rank a trained supernet against a file of accuracies, or else against a benchmark.

    data: the images of the supernet, where they have moved.
    """
    trained = RunFolder.open(supernet, "supernet")
    space = any_space_from_dict(trained.read(SupernetSettings).space)
    if truth is not None:
        known = read_truth(truth, space, trained)
    else:
        known = read_benchmark(benchmark or "", data_root, space)
    trained.check_finished()
    evaluator = SupernetEvaluator(open_supernet_run(supernet, data=data))
    return rank(evaluator, known, asked, out, resume=resume)


def rank(
    evaluator: SupernetEvaluator,
    truth: Truth,
    asked: Ranking,
    out: Path,
    *,
    resume: bool,
) -> dict[str, Any]:
    """Compare a supernet's accuracies with true ones; the figures are also written to `out`.

    The archs are drawn from those of the truth, stratified over FLOPs, whatever their accuracy.
    FLOPs and params are predictors beside the supernet; if asked for, also two zero-cost scores and
    the score that a search can go by, of the supernet and NASWOT.
    Raises BadInput for a folder that holds another ranking.
    """
    folder = evaluator.run.folder.path.resolve()
    found = evaluator.run.images.data.found.to_dict()
    rows = stratified(truth.costs["flops"], asked.n, asked.seed)
    settings = {
        "n": asked.n,
        "seed": asked.seed,
        "recalibrated": asked.recalibrated,
        "truth": truth.source,
        "evaluator": evaluator.describe(),
    }
    run = RunFolder.start_or_resume(
        out,
        "rank",
        settings,
        resume=resume,
        parents={"supernet": folder},
        facts={"archs": [str(truth.archs[i]) for i in rows], "data": found},
    )
    # Those that were drawn when the ranking was started.
    drawn = run.fact("archs", list[str])
    places = {str(arch): i for i, arch in enumerate(truth.archs)}
    rows = np.array([places[arch] for arch in drawn if arch in places])
    if len(rows) < len(drawn):
        raise BadInput(f"{truth.source} lacks archs that {out} was started with")
    archs = [truth.archs[i] for i in rows]

    def predict(group: list[AnyArch]) -> list[dict[str, float]]:
        found = evaluator(group, recalibrated=asked.recalibrated)
        return [{"accuracy": accuracy} for accuracy in found]

    columns = _stored(out / PREDICTIONS, archs, _Prediction, predict, "rank", AT_ONCE)
    predicted = columns["accuracy"]
    actual = truth.accuracy[rows]
    costs = {name: values[rows].astype(float) for name, values in truth.costs.items()}
    predictors = {SUPERNET: predicted, **costs}
    if asked.zero_cost:
        images = evaluator.zero_cost_images()

        def score_untrained(group: list[AnyArch]) -> list[dict[str, float]]:
            networks = (evaluator.untrained(arch, asked.seed) for arch in group)
            return [zero_cost_scores(network, images) for network in networks]

        title = "zero-cost scores"
        scores = _stored(out / ZERO_COST, archs, _Scores, score_untrained, title, 1)
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
        "evaluator": evaluator.describe(),
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
    }
    run.store_result(result)
    plot_ranking(out / "rank.png", result)
    return result


def _stored(
    path: Path,
    archs: Sequence[AnyArch],
    shape: type[_Prediction | _Scores],
    measure: Callable[[list[AnyArch]], list[dict[str, float]]],
    title: str,
    at_once: int,
) -> dict[str, Floats]:
    """What is measured of each arch, (archs,) by name; what `path` has is not measured again."""
    known = {row.arch: row.model_dump(exclude={"arch"}) for row in read_jsonl(path, shape)}
    # Neighbours in this order share most of their work.
    left = sorted((arch for arch in archs if str(arch) not in known), key=str)
    with ProgressBar(title, len(archs), len(known)) as bar:
        for start in range(0, len(left), at_once):
            group = left[start : start + at_once]
            found = dict(zip(map(str, group), measure(group), strict=True))
            append_jsonl(path, ({"arch": arch, **values} for arch, values in found.items()))
            known |= found
            bar.advance(len(group), f"{len(known)} archs")
    names = shape.model_fields.keys() - {"arch"}
    return {name: np.array([known[str(arch)][name] for arch in archs]) for name in names}
