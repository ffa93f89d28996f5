"""Does a supernet order networks as stand-alone training does? The run folder of an answer.

settings.json       what is ranked: weights, truth, archs drawn; a resume has to agree
predictions.jsonl   one line an arch, synced after each group of archs
zero_cost.json      scores of the untrained networks
rank.json           the figures, and what they rest on, arch by arch
rank.png            predicted against true accuracy
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenas.base.errors import BadInput
from mobilenas.base.files import append_jsonl, read_json, read_jsonl, write_json
from mobilenas.base.progress import ProgressBar
from mobilenas.evaluate.evaluator import SupernetEvaluator
from mobilenas.evaluate.trie import AT_ONCE
from mobilenas.evaluate.truth import Truth
from mobilenas.evaluate.zero_cost import zero_cost_scores
from mobilenas.rank.metrics import MIN_EVIDENCE, default_budgets, rank_metrics, regrets
from mobilenas.rank.strata import stratified
from mobilenas.report.rank import plot_ranking
from mobilenas.search.problem import score
from mobilenas.space import AnyArch

SETTINGS, PREDICTIONS, RANK = "settings.json", "predictions.jsonl", "rank.json"
ZERO_COST = "zero_cost.json"
SUPERNET, NASWOT = "supernet", "naswot"  # names of predictors in rank.json

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Ranking:
    """What is asked for: n archs drawn by seed, with recalibrated batch norms or inherited ones.

    zero_cost: whether untrained networks are scored too, for some seconds an arch.
    """

    n: int
    seed: int
    recalibrated: bool
    zero_cost: bool


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
    rows = stratified(truth.costs["flops"], asked.n, asked.seed)
    archs = [truth.archs[i] for i in rows]
    settings = {
        "n": asked.n,
        "seed": asked.seed,
        "recalibrated": asked.recalibrated,
        "truth": truth.source,
        "evaluator": evaluator.describe(),
        "archs": list(map(str, archs)),
    }
    _open(out, settings, resume)
    predicted = _predictions(evaluator, archs, asked.recalibrated, out / PREDICTIONS)
    actual = truth.accuracy[rows]
    costs = {name: values[rows].astype(float) for name, values in truth.costs.items()}
    predictors = {SUPERNET: predicted, **costs}
    if asked.zero_cost:
        scores = _zero_cost(evaluator, archs, asked.seed, out / ZERO_COST)
        both = np.column_stack([predicted, scores[NASWOT]])
        predictors |= scores | {f"{SUPERNET}+{NASWOT}": score(both, both)}
    flops = costs["flops"]
    result = {
        "space": evaluator.run.space.name,
        "supernet": {
            "folder": str(evaluator.run.folder.path.resolve()),
            "config": evaluator.run.settings.config.model_dump(mode="json"),
        },
        "truth": truth.source,
        "networks": len(truth.archs),
        "ceiling": truth.ceiling,
        **asdict(asked),
        "n": len(archs),  # all there are, where more were asked for
        "min_evidence": MIN_EVIDENCE,
        "evaluator": evaluator.describe(),
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
    write_json(out / RANK, result)
    plot_ranking(out / "rank.png", result)
    return result


def _open(out: Path, settings: dict[str, Any], resume: bool) -> None:
    path = out / SETTINGS
    if path.exists() and not resume:
        raise BadInput(f"{out} already holds a ranking: continue it with --resume or set --out")
    if path.exists():
        stored = read_json(path)
        for name, value in settings.items():
            if stored.get(name) != value:
                both = (
                    "" if name in ("archs", "evaluator") else f" ({stored.get(name)}, not {value})"
                )
                raise BadInput(
                    f"{out} was started with another {name}{both}: resume it with the same settings"
                    " or set --out"
                )
    write_json(path, settings)


def _predictions(
    evaluator: SupernetEvaluator, archs: Sequence[AnyArch], recalibrated: bool, path: Path
) -> Floats:
    """The supernet's accuracy of each arch; those that `path` holds are not measured again."""
    known = {row["arch"]: row["accuracy"] for row in read_jsonl(path, "arch", "accuracy")}
    left = sorted((arch for arch in archs if str(arch) not in known), key=str)
    with ProgressBar("rank", len(archs), len(known)) as bar:
        for start in range(0, len(left), AT_ONCE):
            group = left[start : start + AT_ONCE]
            accuracies = evaluator(group, recalibrated=recalibrated)
            measured = dict(zip(map(str, group), accuracies, strict=True))
            append_jsonl(path, ({"arch": arch, "accuracy": x} for arch, x in measured.items()))
            known |= measured
            bar.advance(len(group), f"{len(known)} archs")
    return np.array([known[str(arch)] for arch in archs])


def _zero_cost(
    evaluator: SupernetEvaluator, archs: Sequence[AnyArch], seed: int, path: Path
) -> dict[str, Floats]:
    """The zero-cost scores of each arch; those that `path` holds are not computed again."""
    if not path.exists():
        images = evaluator.zero_cost_images()
        scores = zero_cost_scores(evaluator.untrained, archs, images, seed)
        write_json(path, {name: values.tolist() for name, values in scores.items()})
    return {name: np.array(values) for name, values in read_json(path).items()}
