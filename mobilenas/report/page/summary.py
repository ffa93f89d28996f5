"""The top of a report: what was asked, what was found and how it compares, in one sentence each."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mobilenas.base.intervals import wilson
from mobilenas.base.units import format_size
from mobilenas.cost.titles import cost_title, format_cost

Part = dict[str, Any]


def sentences(content: Part) -> dict[str, str]:
    """`asked`, `found` and `compared`."""
    return {"asked": _asked(content), "found": _found(content), "compared": _compared(content)}


def headline(content: Part) -> list[dict[str, str]]:
    """The few numbers that a reader looks for first: name, value, and what it is worth."""
    best = best_trained(content)
    shown = []
    if best is not None:
        result = best["trained"]
        tested = result["test_images"] > 0
        name = "test_accuracy" if tested else "accuracy"
        n = result["test_images"] if tested else result["validation_images"]
        what = "test images" if tested else "validation images, by which its epoch was chosen"
        if several := result.get("trainings"):
            note = f"mean ± sd of {several} trainings, on {n:,} {what}"
        else:
            note = f"{interval(result[name], n)}; {what}"
        shown.append(_figure("top-1, stand-alone", _mean(result, name), note))
        limits = _limits_of(content, best)
        for key, note in (("flops", "multiply-adds, one image"), ("params", "that are trained")):
            if key in limits:
                note += f"; budget {format_cost(key, limits[key])}"
            shown.append(_figure(cost_words(key), format_cost(key, result[key]), note))
        shown += [
            _figure("latency", f"{ms:.3g} ms", f"predicted, {name}")
            for name, ms in list(result["latency_ms"].items())[:1]
        ]
    else:
        for search in [s for s in content["searches"] if s.get("front")][:1]:
            row = _best(search)
            note = f"of {search['images']} validation images, which the search selected on"
            shown.append(_figure("best of the front", quality(search, row), note))
            cost = search["cost"]
            shown.append(_figure(cost_words(cost), format_cost(cost, row[cost]), "of this arch"))
    for ranking in [r for r in content["rankings"] if "damage" not in r][:1]:
        tau = ranking["predictors"]["supernet"]["kendall"]
        if tau["value"] is not None:
            note = f"95 % [{tau['low']:.2f}, {tau['high']:.2f}]; {ranking['n']} archs"
            shown.append(_figure("Kendall's tau", f"{tau['value']:.2f}", note))
    for export in [e for e in content["exports"] if e.get("proof")][:1]:
        proof = export["proof"]
        worst = max(p["max_rel"] for p in proof["verification"]["parity"])
        note = f"{proof['runtime']} {proof['dtype']}; logits within {worst:.0e} of torch"
        shown.append(_figure("file", f"{format_size(export['size_bytes'])}B", note))
    for detection in [d for d in content["detections"] if "result" in d][:1]:
        result = detection["result"]
        note = f"COCO, {result['data']['val']['images']} validation images"
        shown.append(_figure("AP, detection", precision(result["AP"]), note))
    return shown


def best_trained(content: Part) -> Part | None:
    """The arch of the highest validation accuracy when trained stand-alone."""
    done = [arch for arch in content["archs"] if "trained" in arch]
    return max(done, key=lambda arch: arch["trained"]["accuracy"], default=None)


def cost_words(cost: str) -> str:
    """The name of a cost for a reader."""
    return "FLOPs" if cost == "flops" else cost_title(cost)


def limit_words(limits: Mapping[str, float]) -> str:
    """Limits for a reader: FLOPs ≤ 4.717M and params ≤ 5M."""
    return " and ".join(f"{cost_words(c)} ≤ {format_cost(c, x)}" for c, x in limits.items())


def percent(share: float) -> str:
    """A share in 0..1 as people write it."""
    return f"{100 * share:.2f} %"


def stand_alone(result: Part, name: str = "accuracy") -> str:
    """An accuracy of an arch's stand-alone training; of several trainings their mean and standard
    deviation, never the best.
    """
    several = f" (n = {result['trainings']} trainings)" if "trainings" in result else ""
    return _mean(result, name) + several


def precision(share: float | None) -> str:
    """An average precision as COCO writes it; a dash where none was measured."""
    return "-" if share is None else f"{100 * share:.1f}"


def interval(share: float, n: int | None) -> str:
    """The 95 % interval of a share of n images."""
    if not n:
        return "n not known"
    low, high = wilson(round(share * n), n)
    return f"95 % [{100 * low:.1f}, {100 * high:.1f}], n = {n:,}"


def quality(search: Part, row: Part) -> str:
    """What a search maximised, of one arch; a score with the accuracy that is in it."""
    if search["quality"] == "score":
        return f"{percent(row['accuracy'])} (score {row['score']:.2f})"
    return percent(row[search["quality"]])


def _mean(result: Part, name: str) -> str:
    if "trainings" not in result:
        return percent(result[name])
    return f"{100 * result[name]:.2f} ± {100 * result[f'{name}_sd']:.2f} %"


def _figure(name: str, value: str, note: str) -> dict[str, str]:
    return {"name": name, "value": value, "note": note}


def _best(search: Part) -> Part:
    best: Part = next(r for r in search["front"] if r["arch"] == search["picks"]["best"])
    return best


def _limits_of(content: Part, arch: Part) -> Part:
    """The limits of the search that a trained arch comes from; none if it is of no front."""
    for search in content["searches"]:
        same = [search.get(key) == arch[key] for key in ("space", "resolution")]
        archs = [row["arch"] for row in search.get("front", [])]
        if all(same) and arch["arch"] in archs:
            return dict(search["limits"])
    return {}


def _asked(content: Part) -> str:
    searches = [part for part in content["searches"] if "damage" not in part]
    strategies = [part for part in content["strategies"] if "damage" not in part]
    spaces = dict.fromkeys(part["space"] for part in searches + strategies)
    # Overrides tell spaces apart, but are long: each part of the report has them.
    names = spaces if len(spaces) == 1 else dict.fromkeys(name.split(":")[0] for name in spaces)
    ways = []
    if searches:
        archs = sum(search["evaluations"] for search in searches)
        way = f"{_count(searches, 'search')} that evaluated {archs:,} archs"
        ways.append(way + _within(searches))
    if strategies:
        methods = ", ".join(dict.fromkeys(part["strategy"] for part in strategies))
        way = f"{_count(strategies, 'search')} by gradient ({methods})"
        ways.append(way + _within(strategies))
    if ways:
        noun = "the space" if len(names) == 1 else "the spaces"
        return f"Networks of {noun} {', '.join(names)}{_data(content)}, by {' and by '.join(ways)}."
    kinds = ", ".join(dict.fromkeys(run["title"] for run in content["runs"]))
    return f"No search is among these runs, which are {kinds}{_data(content)}."


def _within(parts: list[Part]) -> str:
    limits = dict.fromkeys(limit_words(part["limits"]) or "no limit" for part in parts)
    return f" within {' or '.join(limits)}" if list(limits) != ["no limit"] else " without a limit"


def _data(content: Part) -> str:
    found = {r["data"]["source"]: r["data"] for r in content["runs"] if r.get("data")}
    parts = [
        f"{Path(name).name} ({data['train_images']:,} training images)"
        for name, data in found.items()
    ]
    return f" for the images of {', '.join(parts)}" if parts else ""


def _found(content: Part) -> str:
    said = []
    fronts = [search for search in content["searches"] if search.get("front")]
    for search in fronts:
        front, cost = search["front"], search["cost"]
        shown = [front[0], front[-1]] if len(front) > 1 else front
        ends = " to ".join(f"{quality(search, row)} at {_cost(cost, row)}" for row in shown)
        many = f"a front of {len(front)} archs" if len(front) > 1 else "one arch"
        by = f" ({search['run']})" if len(fronts) > 1 else ""
        said.append(f"{many}{by}, {ends}")
    for strategy in (s for s in content["strategies"] if s.get("front")):
        (row,) = strategy["front"]
        said.append(f"{strategy['strategy']} derived an arch of {_cost('flops', row)}")
    best = best_trained(content)
    if best is not None:
        result = best["trained"]
        text = f"trained stand-alone, {best['arch']} has {stand_alone(result)} on"
        text += f" {result['validation_images']:,} validation images"
        if result["test_images"]:
            share = stand_alone(result, "test_accuracy")
            text += f" and {share} on {result['test_images']:,} test images"
        said.append(text)
    for detection in (d for d in content["detections"] if "result" in d):
        said.append(f"its detector an AP of {precision(detection['result']['AP'])}")
    for ranking in (r for r in content["rankings"] if "damage" not in r and not said):
        said.append(f"the supernet orders {ranking['n']} archs with {_tau(ranking)}")
    text = "; ".join(said) or "nothing that is finished yet"
    return text[0].upper() + text[1:] + "."


def _compared(content: Part) -> str:
    said = []
    for part in (s for s in content["strategies"] if s.get("standing")):
        name, place = next(iter(part["standing"].items()))
        said.append(
            f"the arch of {part['strategy']} is number {place['place']:,} of {place['total']:,} on"
            f" {name} ({percent(place['accuracy'])}; a random one {percent(place['random_mean'])})"
        )
    fronts = [s for s in content["searches"] if s.get("front")]
    if len(fronts) > 1:
        tops = ", ".join(f"{s['run']} {quality(s, _best(s))}" for s in fronts)
        said.append(f"the best of each front: {tops}")
    said += _against_the_space(content, fronts)
    for ranking in (r for r in content["rankings"] if "damage" not in r):
        said.append(f"the supernet orders {ranking['n']} archs with {_tau(ranking)}")
    if not content["rankings"] and fronts:
        said.append("how well the supernet orders archs was not measured here (mobilenas rank)")
    text = "; ".join(said) or "there is nothing among these runs to compare it with"
    return text[0].upper() + text[1:] + "."


def _against_the_space(content: Part, fronts: list[Part]) -> list[str]:
    """The best arch found beside the median one of its space, both in the same supernet."""
    supernets = [training for training in content["trainings"] if "validation" in training]
    if len(supernets) != 1 or not fronts or fronts[0]["quality"] == "prediction":
        return []
    medians = [row for row in supernets[0]["validation"] if row["name"] == "median"]
    if not medians or fronts[0]["space"] != supernets[0]["space"]:
        return []
    row, median = _best(fronts[0]), medians[0]
    gain = 100 * (row["accuracy"] - median["accuracy_recalibrated"])
    flops = 100 * (row["flops"] / median["flops"] - 1)
    return [
        f"in the supernet the best of the front is {abs(gain):.1f} points "
        f"{'above' if gain >= 0 else 'below'} the space's arch of median FLOPs "
        f"({percent(median['accuracy_recalibrated'])}), with {abs(flops):.0f} % "
        f"{'fewer' if flops < 0 else 'more'} FLOPs"
    ]


def _tau(ranking: Part) -> str:
    tau = ranking["predictors"]["supernet"]["kendall"]
    if tau["value"] is None:
        return "an undefined Kendall's tau"
    few = "" if ranking["predictors"]["supernet"]["evidence"] else ", too few to be evidence"
    return f"a Kendall's tau of {tau['value']:.2f} [{tau['low']:.2f}, {tau['high']:.2f}]{few}"


def _cost(cost: str, row: Part) -> str:
    unit = {"flops": " FLOPs", "params": " params"}.get(cost, "")
    return f"{format_cost(cost, row[cost])}{unit}"


def _count(parts: list[Part], noun: str) -> str:
    plural = f"{noun}es" if noun.endswith("ch") else f"{noun}s"
    return f"a {noun}" if len(parts) == 1 else f"{len(parts)} {plural}"
