"""A ranking as text and as a picture: every figure where it belongs, few archs called few."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mobilenas.rank.metrics import default_budgets, rank_metrics, regrets
from mobilenas.report import rank
from mobilenas.report.rank import describe_ranking, plot_ranking


def ranking(n: int) -> dict[str, Any]:
    """What `rank.json` holds, of n archs; the predictor "params" is constant."""
    rng = np.random.default_rng(0)
    flops, truth = rng.uniform(2e7, 9e7, n), rng.uniform(0.8, 0.9, n)
    supernet = truth - 0.3 + rng.normal(0, 0.02, n)
    predictors = {"supernet": supernet, "flops": flops, "params": np.full(n, 1e6)}
    budgets = default_budgets(flops)
    return {
        "space": "macro",
        "truth": "truth.csv",
        "networks": 3969,
        "n": n,
        "ceiling": 0.88,
        "seed": 7,
        "min_evidence": 30,
        "recalibrated": True,
        "predictors": {
            name: rank_metrics(values, truth, flops, seed=0, resamples=100).to_dict()
            for name, values in predictors.items()
        },
        "regret": {
            name: [asdict(row) for row in regrets(values, truth, flops, budgets)]
            for name, values in predictors.items()
        },
        "archs": [
            {"arch": str(i), "truth": truth[i]}
            | {name: values[i] for name, values in predictors.items()}
            for i in range(n)
        ],
    }


def table(text: str, start: str) -> list[list[str]]:
    """The cells of the lines below the one that starts so, up to the next empty line."""
    _, _, rest = text.partition(f"\n{start}")
    lines = rest.partition("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in line.split("  ") if cell] for line in lines]


def cell(estimate: dict[str, float]) -> str:
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


def test_every_correlation_has_its_interval() -> None:
    found = ranking(60)
    text = describe_ranking(found)
    assert text.startswith(
        "macro: 60 of 3969 networks, drawn over their FLOPs with seed 7\nground truth: truth.csv; "
        "batch norm statistics: recalibrated for each arch\nbetween single trainings of the ground "
        "truth: Kendall 0.880"
    )
    supernet = found["predictors"]["supernet"]
    whole = table(text, "correlations")
    assert whole[0] == ["predictor", "Kendall", "Spearman", "Pearson"]
    names = ("kendall", "spearman", "pearson")
    assert whole[1] == ["supernet", *(cell(supernet[name]) for name in names)]
    assert [row[0] for row in whole[1:]] == ["supernet", "flops", "params"]
    parts = table(text, "Kendall among")
    pairs = supernet["near_flops_pairs"]
    assert parts[0] == [
        "predictor",
        "top quarter (archs: 15)",
        f"near-equal FLOPs (pairs: {pairs})",
    ]
    assert parts[1] == ["supernet", cell(supernet["top_quarter"]), cell(supernet["near_flops"])]
    assert parts[3] == ["params", "-", "-"]
    assert max(map(len, text.splitlines())) <= 80


def test_regret_has_a_line_a_budget_and_random_beside() -> None:
    found = ranking(60)
    head, *rows = table(describe_ranking(found), "points of accuracy lost")
    assert head == ["budget", "archs", "best", "supernet", "flops", "params", "random"]
    assert len(rows) == 5
    last = [found["regret"][name][-1] for name in ("supernet", "flops", "params")]
    assert rows[-1][1] == "60"
    assert rows[-1][2] == f"{100 * max(arch['truth'] for arch in found['archs']):.2f} %"
    points = [*(row["points"] for row in last), last[0]["random_points"]]
    assert rows[-1][3:] == [f"{value:.2f}" for value in points]


@pytest.mark.parametrize(("n", "few"), [(29, True), (30, False)])
def test_few_archs_are_called_no_evidence(n: int, few: bool) -> None:
    text = describe_ranking(ranking(n))
    assert (f"no evidence: {n} archs, at least 30 are needed" in text) == few


def test_a_truth_without_a_ceiling_has_no_such_line() -> None:
    assert "between single trainings" not in describe_ranking(ranking(30) | {"ceiling": None})


def test_the_picture_is_a_png_that_repeats(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        plot_ranking(tmp_path / name, ranking(40))
    image = Image.open(tmp_path / "a.png")
    assert image.format == "PNG" and round(image.info["dpi"][0]) == 150
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("n", [1, 12, 40])
def test_the_picture_shows_every_arch_in_percent(
    n: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(rank, "save_png", lambda path, figure: drawn.append(figure))
    found = ranking(n)
    plot_ranking(tmp_path / "a.png", found)
    axes, bar = drawn[0].axes
    (dots,) = axes.collections
    expected = [[100 * arch["supernet"], 100 * arch["truth"]] for arch in found["archs"]]
    np.testing.assert_allclose(dots.get_offsets(), expected)
    np.testing.assert_allclose(dots.get_array(), [arch["flops"] / 1e6 for arch in found["archs"]])
    assert bar.get_ylabel() == "FLOPs (multiply-adds, M)"
    title = axes.get_title(loc="left")
    kendall = found["predictors"]["supernet"]["kendall"]
    assert title.startswith(f"macro: {n} archs, Kendall {cell(kendall) if n > 1 else '-'}")
    assert title.endswith("too few to be evidence") == (n < 30)
