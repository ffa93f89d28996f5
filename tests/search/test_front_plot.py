import numpy as np
import pytest
from PIL import Image

from mobilenas.report import plots
from mobilenas.report.plots import plot_front


def rows(n, seed):
    rng = np.random.default_rng(seed)
    return [
        {"generation": int(g), "flops": int(f), "params": 1000, "accuracy": float(a)}
        for g, f, a in zip(
            rng.integers(1, 5, n), rng.integers(1e8, 5e8, n), rng.random(n), strict=True
        )
    ]


def test_front_plot_is_a_png_of_150_dpi_and_repeats(tmp_path):
    evaluated = rows(30, 0)
    for name in ("a.png", "b.png"):
        limits = {"flops": 4e8, "params": 5e6}
        plot_front(tmp_path / name, evaluated, evaluated[:5], limits, "s1")
    image = Image.open(tmp_path / "a.png")
    assert image.format == "PNG" and round(image.info["dpi"][0]) == 150
    assert np.asarray(image.convert("L")).std() > 5
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_front_plot_of_one_arch(tmp_path):
    plot_front(tmp_path / "one.png", rows(1, 0), rows(1, 0), {}, "s1", "params")
    assert (tmp_path / "one.png").stat().st_size > 1000


@pytest.fixture
def drawn(monkeypatch):
    """The axes of the figures that were drawn."""
    found = []
    monkeypatch.setattr(plots, "save_png", lambda path, figure: found.append(figure.axes[0]))
    return found


def test_a_score_has_its_own_axis(tmp_path, drawn):
    evaluated = [row | {"score": 10 * row["accuracy"]} for row in rows(9, 0)]
    plot_front(tmp_path / "a.png", evaluated, evaluated[:2], {}, "s1", quality="score")
    (axes,) = drawn
    assert axes.get_ylabel() == "score"
    heights = axes.collections[0].get_offsets()[:, 1]
    np.testing.assert_allclose(heights, [row["score"] for row in evaluated])


@pytest.mark.parametrize(
    ("cost", "label", "unit", "budget"),
    [
        ("flops", "FLOPs (multiply-adds, M)", 1e6, "budget 5M"),
        ("params", "parameters (M)", 1e6, "budget 5M"),
        ("memory", "peak activation memory (MB)", 1e6, "budget 5MB"),
        ("latency_ms@phone", "latency@phone (ms)", 1, "budget 5e+06 ms"),
    ],
)
def test_an_axis_has_the_unit_of_its_cost(tmp_path, drawn, cost, label, unit, budget):
    evaluated = [{"generation": 1, "accuracy": 0.1 * i, cost: 1e6 * i} for i in range(1, 5)]
    plot_front(tmp_path / "a.png", evaluated, evaluated[1:], {cost: 5e6}, "s1", cost)
    (axes,) = drawn
    assert axes.get_xlabel() == label
    dots = axes.collections[0].get_offsets()
    np.testing.assert_allclose(dots[:, 0], [1e6 * i / unit for i in range(1, 5)])
    limit = axes.lines[-1]
    assert set(limit.get_xdata()) == {5e6 / unit}
    assert limit.get_label() == budget.replace("5e+06", "5000000")


def test_the_line_of_a_front_rises_and_other_limits_are_in_the_title(tmp_path, drawn):
    points = [(1, 0.5), (2, 0.4), (3, 0.7), (4, 0.6), (5, 0.8)]
    front = [{"generation": 1, "latency_ms@a": x, "accuracy": y} for x, y in points]
    limits = {"latency_ms@b": 20.0, "memory": 2e6}
    plot_front(tmp_path / "a.png", front, front, limits, "s1", "latency_ms@a")
    line, dots = drawn[0].lines
    assert line.get_xdata().tolist() == [1, 3, 5]
    assert dots.get_xdata().tolist() == [1, 2, 3, 4, 5] and dots.get_linewidth() == 0
    title = drawn[0].get_title(loc="left")
    assert title == "s1: 5 archs evaluated, latency@b <= 20 ms, memory <= 2MB"
