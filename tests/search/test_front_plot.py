import numpy as np
from PIL import Image

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
