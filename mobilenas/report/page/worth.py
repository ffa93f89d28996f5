"""What each number of a report is worth: how many, its interval, and what was selected on it."""

from collections.abc import Iterator
from typing import Any

from mobilenas.cost.titles import format_cost
from mobilenas.report.page.summary import interval, percent, precision

Part = dict[str, Any]


def worth(content: Part) -> list[dict[str, str]]:
    """Rows of number, value, rests_on (n and interval), and selected: what was chosen by it."""
    return [
        *_fronts(content),
        *_trainings(content),
        *_rankings(content),
        *_latencies(content),
        *_exports(content),
        *_detections(content),
    ]


def _row(number: str, value: str, rests_on: str, selected: str) -> dict[str, str]:
    return {"number": number, "value": value, "rests_on": rests_on, "selected": selected}


def _fronts(content: Part) -> Iterator[dict[str, str]]:
    for search in (s for s in content["searches"] if s.get("front")):
        row = next(r for r in search["front"] if r["arch"] == search["picks"]["best"])
        shown = row["accuracy"]
        rests_on = interval(shown, search["images"])
        if search["quality"] != "accuracy":
            found = row[search["quality"]]
            what = f"{found:.2f}" if search["quality"] == "score" else percent(found)
            rests_on += f"; the search maximised {search['quality']}, {what}"
        yield _row(
            f"{search['run']}: best of the front, in the supernet",
            percent(shown),
            rests_on,
            f"the best of {search['evaluations']:,} archs by these very images: too high",
        )


def _trainings(content: Part) -> Iterator[dict[str, str]]:
    for part in (t for t in content["trainings"] if "result" in t):
        result = part["result"]
        yield _row(
            f"{part['run']}: validation accuracy",
            percent(result["accuracy"]),
            f"{interval(result['accuracy'], result['validation_images'])}; one seed",
            f"its best epoch; the last one has {percent(result['last_accuracy'])}",
        )
        if result["test_images"]:
            yield _row(
                f"{part['run']}: test accuracy",
                percent(result["test_accuracy"]),
                f"{interval(result['test_accuracy'], result['test_images'])}; one seed",
                "nothing",
            )


def _rankings(content: Part) -> Iterator[dict[str, str]]:
    for ranking in (r for r in content["rankings"] if "damage" not in r):
        found = ranking["predictors"]["supernet"]
        tau = found["kendall"]
        value, rests_on = "undefined", f"n = {ranking['n']} archs"
        if tau["value"] is not None:
            value = f"{tau['value']:.3f}"
            rests_on += f", 95 % [{tau['low']:.3f}, {tau['high']:.3f}] by bootstrap"
        few = "" if found["evidence"] else f"; evidence from {ranking['min_evidence']} on"
        yield _row(
            f"{ranking['run']}: Kendall's tau of the supernet",
            value,
            rests_on + few,
            "nothing; archs drawn over the FLOPs of those in the ground truth",
        )


def _latencies(content: Part) -> Iterator[dict[str, str]]:
    for check in (c for c in content["checks"] if "damage" not in c):
        figures = check["predictors"]["table"]
        yield _row(
            f"{check['run']}: error of the latency table",
            f"{100 * figures['mape']:.1f} %",
            f"n = {check['n']} networks; {100 * figures['within_5_percent']:.0f} % within 5 %",
            "nothing; the table was not made from them",
        )
    for table in (t for t in content["tables"] if t.get("check")):
        figures = table["check"]["predictors"]["table"]
        yield _row(
            f"latency by {table['table']}",
            f"off by {100 * figures['mape']:.1f} %",
            f"n = {table['check']['networks']} networks, timed on {table['check']['date']}",
            "nothing; the table was not made from them",
        )


def _exports(content: Part) -> Iterator[dict[str, str]]:
    for export in (e for e in content["exports"] if e.get("proof")):
        proof = export["proof"]["verification"]
        worst = max(row["max_rel"] for row in proof["parity"])
        yield _row(
            f"{export['run']}: parity of {export['file']}, of the largest logit",
            f"{worst:.1e}",
            f"{proof['images']} images, in batches of "
            + ", ".join(str(row["batch_size"]) for row in proof["parity"]),
            "nothing; every image has to agree",
        )


def _detections(content: Part) -> Iterator[dict[str, str]]:
    for part in (d for d in content["detections"] if "result" in d):
        result = part["result"]
        data = result["data"]["val"]
        yield _row(
            f"{part['run']}: AP of the detector",
            precision(result["AP"]),
            f"{data['images']} images, {data['annotations']} boxes; one seed, no interval",
            f"nothing; the last epoch, at {format_cost('flops', result['flops']['total'])} FLOPs",
        )
