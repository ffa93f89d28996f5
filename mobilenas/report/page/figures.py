"""The figures of a report, as plotly takes them: plain data.

Colours are `var(--NAME)`, which the page replaces by those of its style, light or dark. Text that
plotly draws is escaped: it has a markup of its own.
"""

from collections.abc import Sequence
from html import escape
from statistics import fmean
from textwrap import wrap
from typing import Any

from mobilenas.base.intervals import wilson
from mobilenas.cost.titles import COUNTED, format_cost, is_cost, is_latency
from mobilenas.report.page.summary import cost_words, stand_alone

Part = dict[str, Any]
Figure = dict[str, Any]

_COLOURS = [f"var(--series-{number})" for number in range(1, 7)]
_WIDE = 54  # characters of a line of a hover label
_SPANS = 25  # of a smoothed loss: what it averages over is the curve's length by this
_TITLES = {
    "accuracy": "accuracy in the supernet (%)",
    "prediction": "predicted accuracy (%)",
    "score": "score",
}


def draw_figures(content: Part) -> dict[str, Figure]:
    """All figures by their ids; `label` says in words what each shows."""
    found: dict[str, Figure] = {}
    fronts = [s for s in content["searches"] if s.get("front")]
    if fronts:
        found["front"] = _fronts(fronts, content)
    trainings = [t for t in content["trainings"] if "damage" not in t]
    for key, title in (("loss", "training loss"), ("accuracy", "validation accuracy (%)")):
        curves = [(t["run"], t["curves"][key]) for t in trainings]
        if any(points for _, points in curves):
            found[f"training-{key}"] = _curves(curves, title, "passes over the training images")
    strategies = [s for s in content["strategies"] if "damage" not in s]
    for key in dict.fromkeys(key for s in strategies for key in s["curves"]):
        curves = [(s["run"], s["curves"].get(key, [])) for s in strategies]
        if any(points for _, points in curves):
            found[f"strategy-{key}"] = _strategy(curves, key)
    for number, strategy in enumerate(strategies):
        if strategy.get("probabilities"):
            found[f"probabilities-{number}"] = _heat(strategy)
    for number, ranking in enumerate(content["rankings"]):
        if "damage" not in ranking:
            found[f"ranking-{number}"] = _ranking(ranking)
            found[f"predictors-{number}"] = _predictors(ranking)
    for number, check in enumerate(content["checks"]):
        if "damage" not in check:
            found[f"latency-{number}"] = _latency(check)
    for number, detection in enumerate(content["detections"]):
        if "damage" not in detection and detection["curves"]["loss"]:
            curve = [(detection["run"], detection["curves"]["loss"])]
            found[f"detection-{number}"] = _curves(curve, "detector's loss", "step")
    return found


def _figure(label: str, data: list[Part], x: str, y: str, **layout: Any) -> Figure:
    axes = {"xaxis": {"title": {"text": escape(x)}}, "yaxis": {"title": {"text": escape(y)}}}
    for axis, more in ((axis, layout.pop(axis, {})) for axis in axes):
        axes[axis] |= more
    return {"label": label, "data": data, "layout": axes | layout}


def _fronts(searches: Sequence[Part], content: Part) -> Figure:
    """Every search's archs and front over each cost that all of them have."""
    qualities = {search["quality"] for search in searches}
    quality = qualities.pop() if len(qualities) == 1 else "accuracy"
    scale = 1 if quality == "score" else 100
    costs = [c for c in searches[0]["costs"] if all(c in search["costs"] for search in searches)]
    data, rows_of = [], []
    for search, colour in zip(searches, _cycle(len(searches)), strict=True):
        seen = [row for row in search["evaluated"] if quality in row]
        data.append(
            _dots(seen, [scale * row[quality] for row in seen], f"{search['run']}: evaluated")
            | {"marker": {"color": colour, "size": 5, "opacity": 0.3}}
        )
        front = search["front"]
        data.append(
            _dots(front, [scale * row[quality] for row in front], f"{search['run']}: front")
            | {
                "mode": "lines+markers",
                "line": {"color": colour, "width": 2, "shape": "linear"},
                "marker": {
                    "color": colour,
                    "size": 9,
                    "line": {"color": "var(--paper)", "width": 1.5},
                },
            }
        )
        rows_of += [seen, front]
    trained = _trained(content) if quality != "score" else []
    if trained:
        shares = [arch["trained"]["accuracy"] for arch in trained]
        rows = [{key: arch[key] for key in ("arch", "trained")} | arch["costs"] for arch in trained]
        stars = _dots(rows, [100 * share for share in shares], "trained stand-alone")
        bars = [_bar(arch["trained"]) for arch in trained]
        stars["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": [100 * (high - s) for (_, high), s in zip(bars, shares, strict=True)],
            "arrayminus": [100 * (s - low) for (low, _), s in zip(bars, shares, strict=True)],
            "color": "var(--ink)",
            "thickness": 1,
        }
        stars["marker"] = {"symbol": "star", "size": 13, "color": "var(--ink)"}
        data.append(stars)
        rows_of.append(rows)
    variants = [_over(cost, rows_of, searches) for cost in costs]
    label = (
        f"{len(searches)} front{'s' * (len(searches) > 1)} of accuracy over cost with "
        f"{sum(len(s['front']) for s in searches)} archs, above all archs that were evaluated"
    )
    # Those that were trained stand-alone are no accuracies of the supernet.
    title = "accuracy (%)" if trained else _TITLES[quality]
    return _figure(label, data, "", title) | {"variants": variants, "walk": 1}


def _over(cost: str, rows_of: Sequence[Sequence[Part]], searches: Sequence[Part]) -> Part:
    """What of the front's figure changes with the cost on its x axis."""
    unit, title = _axis(cost)
    limits = dict.fromkeys(s["limits"][cost] for s in searches if cost in s["limits"])
    line = {"color": "var(--budget)", "dash": "dash", "width": 1.5}
    ends = {"y0": 0, "y1": 1, "yref": "paper", "type": "line", "line": line}
    note = {"yref": "paper", "y": 1, "showarrow": False, "yanchor": "bottom"}
    return {
        "name": cost_words(cost),
        "title": title,
        "x": [[row[cost] / unit if cost in row else None for row in rows] for rows in rows_of],
        "shapes": [ends | {"x0": limit / unit, "x1": limit / unit} for limit in limits],
        "annotations": [
            note | {"x": limit / unit, "text": f"budget {format_cost(cost, limit)}"}
            for limit in limits
        ],
    }


def _axis(cost: str) -> tuple[float, str]:
    """One unit of an axis in the cost's own numbers, and its title."""
    if is_latency(cost):
        return 1, f"{escape(cost_words(cost))} (ms)"
    if cost not in COUNTED:  # of the user's own, in units of its own
        return 1, escape(cost_words(cost))
    titles = {"flops": "FLOPs (multiply-adds, M)", "params": "parameters (M)"}
    return 1e6, titles.get(cost, "peak activation memory (MB)")


def _trained(content: Part) -> list[Part]:
    return [arch for arch in content["archs"] if "trained" in arch]


def _bar(result: Part) -> tuple[float, float]:
    """The ends of an accuracy's error bar: the interval by the images of a single training, of
    several a standard deviation to both sides.
    """
    share = result["accuracy"]
    if "trainings" in result:
        return share - result["accuracy_sd"], share + result["accuracy_sd"]
    n = result["validation_images"]
    return wilson(round(share * n), n)


def _dots(rows: Sequence[Part], y: Sequence[float], name: str) -> Part:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": escape(name),
        "x": [],
        "y": list(y),
        "text": [_hover(row) for row in rows],
        "hovertemplate": "%{text}<extra></extra>",
    }


def _hover(row: Part) -> str:
    """The name of an arch, what was measured of it, and its costs."""
    lines = wrap(row["arch"], _WIDE, break_long_words=True)
    lines += [f"stand-alone {stand_alone(row['trained'])}"] if "trained" in row else []
    shares = {"accuracy": "supernet", "prediction": "predicted"}
    lines += [f"{title} {100 * row[key]:.2f} %" for key, title in shares.items() if key in row]
    lines += [f"score {row['score']:.2f}"] if "score" in row else []
    lines += [f"{cost_words(c)} {format_cost(c, x)}" for c, x in row.items() if is_cost(c)]
    return "<br>".join(map(escape, lines))


def _curves(curves: Sequence[tuple[str, list[list[float]]]], y: str, x: str) -> Figure:
    """Curves over one another; losses as they are, faint, and smoothed.

    A run without points has its colour all the same, so that the others have theirs in all figures.
    """
    data = []
    is_loss, scale = "loss" in y, 100 if "%" in y else 1
    for (run, points), colour in zip(curves, _cycle(len(curves)), strict=True):
        if not points:
            continue
        name, xs = escape(run), [point[0] for point in points]
        ys = [scale * point[1] for point in points]
        line: Part = {"type": "scatter", "name": name, "x": xs, "legendgroup": name}
        if is_loss:
            faint = {"mode": "lines", "showlegend": False, "hoverinfo": "skip", "opacity": 0.3}
            data.append(line | faint | {"y": ys, "line": {"color": colour, "width": 1}})
            ys = _smoothed(ys)
        mode = "lines" if len(xs) > 40 else "lines+markers"
        data.append(
            line
            | {"mode": mode, "y": ys, "line": {"color": colour, "width": 2}}
            | {"hovertemplate": f"{name}<br>%{{x:.4g}}: %{{y:.4g}}<extra></extra>"}
        )
    names = ", ".join(run for run, points in curves if points)
    return _figure(f"{y} over {x}: {names}", data, x, y) | {"walk": int(is_loss)}


def _smoothed(values: list[float]) -> list[float]:
    """The mean of what is around each value, as far to both sides as there are values."""
    half, last = len(values) // (2 * _SPANS), len(values) - 1
    reach = [min(half, place, last - place) for place in range(len(values))]
    return [fmean(values[n - far : n + far + 1]) for n, far in enumerate(reach)]


def _strategy(curves: Sequence[tuple[str, list[list[float]]]], key: str) -> Figure:
    cost = key.removeprefix("expected_")
    if cost == key:
        titles = {"entropy": "entropy (share of its largest)"}
        titles["skip"] = "probability of skipping"
        figure = _curves(curves, titles[key], "passes over the training images")
    else:
        unit, title = _axis(cost)
        scaled = [(run, [[x, y / unit] for x, y in points]) for run, points in curves]
        figure = _curves(scaled, f"expected {title}", "passes over the training images")
    figure["layout"]["yaxis"]["rangemode"] = "tozero"
    return figure


def _heat(strategy: Part) -> Figure:
    """The probability of each candidate at the end, a row a choice."""
    rows = strategy["probabilities"]
    widest = max(len(row["values"]) for row in rows)
    same = all(row["candidates"] == rows[0]["candidates"] for row in rows)
    columns = rows[0]["candidates"] if same else [str(n + 1) for n in range(widest)]
    text = [
        [
            escape(f"{r['choice']}: {c} {100 * v:.1f} %")
            for c, v in zip(r["candidates"], r["values"], strict=True)
        ]
        for r in rows
    ]
    data = {
        "type": "heatmap",
        "z": [row["values"] + [None] * (widest - len(row["values"])) for row in rows],
        "x": [escape(column) for column in columns],
        "y": [escape(row["choice"]) for row in rows],
        "text": [row + [""] * (widest - len(row)) for row in text],
        "hovertemplate": "%{text}<extra></extra>",
        "colorscale": "Viridis",
        "xgap": 1,
        "ygap": 1,
        "zmin": 0,
        "colorbar": {"title": {"text": "probability"}, "thickness": 10, "outlinewidth": 0},
    }
    label = f"{strategy['run']}: probability of each candidate of {len(rows)} choices at the end"
    height = max(280, 90 + 24 * len(rows))
    axis = {"autorange": "reversed", "automargin": True, "type": "category"}
    x = "candidate" if same else "candidate, by its place"
    return _figure(label, [data], x, "", yaxis=axis, xaxis={"type": "category"}, height=height)


def _ranking(ranking: Part) -> Figure:
    archs = ranking["archs"]
    dots = {
        "type": "scatter",
        "mode": "markers",
        "x": [100 * arch["supernet"] for arch in archs],
        "y": [100 * arch["truth"] for arch in archs],
        "text": [
            "<br>".join(
                [
                    *map(escape, wrap(arch["arch"], _WIDE)),
                    f"supernet {100 * arch['supernet']:.2f} %",
                    f"stand-alone {100 * arch['truth']:.2f} %",
                    f"FLOPs {format_cost('flops', arch['flops'])}",
                ]
            )
            for arch in archs
        ],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {
            "color": [arch["flops"] / 1e6 for arch in archs],
            "colorscale": "Viridis",
            "size": 7,
            "opacity": 0.8,
            "colorbar": {"title": {"text": "MFLOPs"}, "thickness": 10, "outlinewidth": 0},
        },
    }
    label = f"accuracy in the supernet against stand-alone accuracy of {len(archs)} archs"
    return _figure(label, [dots], "accuracy in the supernet (%)", "stand-alone accuracy (%)")


def _predictors(ranking: Part) -> Figure:
    """Kendall's tau of each predictor with its interval, best first."""
    taus = {n: p["kendall"] for n, p in ranking["predictors"].items()}
    known = {name: tau for name, tau in taus.items() if tau["value"] is not None}
    rows = sorted(known.items(), key=lambda item: item[1]["value"])
    dots = {
        "type": "scatter",
        "mode": "markers",
        "x": [tau["value"] for _, tau in rows],
        "y": [escape(name) for name, _ in rows],
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [tau["high"] - tau["value"] for _, tau in rows],
            "arrayminus": [tau["value"] - tau["low"] for _, tau in rows],
            "color": "var(--series-1)",
            "thickness": 2,
        },
        "marker": {"color": "var(--series-1)", "size": 9},
        "text": [
            escape(f"{name}: {tau['value']:.3f} [{tau['low']:.3f}, {tau['high']:.3f}]")
            for name, tau in rows
        ],
        "hovertemplate": "%{text}<extra></extra>",
    }
    label = f"Kendall's tau of {len(rows)} predictors with 95 % intervals"
    axis = {"type": "category", "automargin": True}
    return _figure(label, [dots], "Kendall's tau with its 95 % interval", "", yaxis=axis)


def _latency(check: Part) -> Figure:
    rows = check["networks"]
    measured = [row["measured"] for row in rows]
    low = min(*measured, *(row["predicted"] for row in rows))
    high = max(*measured, *(row["predicted"] for row in rows))
    band = {"type": "scatter", "mode": "lines", "hoverinfo": "skip", "line": {"width": 0}}
    ends = [low, high]
    data = [
        band | {"x": ends, "y": [0.95 * x for x in ends], "showlegend": False},
        band
        | {"x": ends, "y": [1.05 * x for x in ends], "fill": "tonexty", "name": "±5 %"}
        | {"fillcolor": "var(--band)"},
        {
            "type": "scatter",
            "mode": "markers",
            "name": "networks",
            "x": measured,
            "y": [row["predicted"] for row in rows],
            "error_x": {
                "type": "data",
                "array": [row["spread"] / 2 for row in rows],
                "color": "var(--series-1)",
                "thickness": 1,
            },
            "marker": {"color": "var(--series-1)", "size": 7},
            "text": [
                "<br>".join(
                    [
                        *map(escape, wrap(row["arch"], _WIDE)),
                        f"measured {row['measured']:.4g} ms, quartiles {row['spread']:.2g} apart",
                        f"predicted {row['predicted']:.4g} ms",
                    ]
                )
                for row in rows
            ],
            "hovertemplate": "%{text}<extra></extra>",
        },
    ]
    label = f"predicted against measured milliseconds of {len(rows)} networks"
    return _figure(label, data, "measured (ms)", "predicted (ms)") | {"walk": 2}


def _cycle(count: int) -> list[str]:
    return [_COLOURS[number % len(_COLOURS)] for number in range(count)]
