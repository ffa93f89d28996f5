"""Plain text for the terminal: detectors, their costs and precisions."""

import json
from typing import Any

from mobilenas.base.units import format_image_size, format_size
from mobilenas.data.found import counted
from mobilenas.report.text import table

_NAMED = 3  # of the classes, so many are named


def describe_data(found: dict[str, Any]) -> str:
    """What is in the data, from `detect.build.describe_data`, in one line."""
    parts = [
        f"{found[part]['images']} {title} images with {found[part]['annotations']} annotations"
        + left_out(found[part]["left_out"], " ({})")
        for part, title in (("train", "training"), ("val", "validation"))
    ]
    names = found["classes"]
    named = ", ".join([*names[:_NAMED], *(["..."] if len(names) > _NAMED else [])])
    return f"{len(names)} classes ({named}): {', '.join(parts)}"


def left_out(counts: dict[str, int], shape: str) -> str:
    """What was left out, in that shape; empty for nothing."""
    named = ", ".join(counted(count, what) for what, count in counts.items() if count)
    return shape.format(f"left out: {named}") if named else ""


def describe_detector(about: dict[str, Any]) -> str:
    """What is trained and what it costs, from `detect.runner.describe_run`."""
    flops, params = about["flops"], about["params"]
    parts = ", ".join(f"{part} {format_size(flops[part])}" for part in ("backbone", "neck", "head"))
    of = f" on {about['arch']} of {about['space']}" if about["space"] else ""  # else not ours
    return (
        f"{about['config']}{of}\n"
        f"{format_size(flops['total'])} FLOPs ({parts}) at {format_image_size(about['input'])} px, "
        f"{format_size(params['total'])} params"
    )


def describe_precisions(result: dict[str, Any]) -> str:
    """COCO's average precisions, in percent, and those of each class, best first."""
    names = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
    whole = [{name: _percent(result[name]) for name in names}]
    classes = sorted(result["classes"].items(), key=lambda item: -(item[1] or 0))
    rows = [{"class": name, "AP": _percent(value)} for name, value in classes if value is not None]
    lines = [table(whole, {name: name.replace("_", " ") for name in names})]
    lines += [f"\n{table(rows, {'class': 'class', 'AP': 'AP'})}"] if rows else []
    if len(rows) < len(classes):
        lines.append(f"{len(classes) - len(rows)} classes have no box in the validation part")
    return "\n".join(lines)


def describe_images(found: dict[str, Any]) -> str:
    """How many images there are, from `detect.predict.list_images`, in one line."""
    return f"{counted(found['images'], 'images')}{left_out(found['left_out'], '; {}')}"


def describe_predictions(rows: list[dict[str, Any]]) -> str:
    """What was found in each image, and where it is drawn."""
    lines = []
    for row in rows:
        found = ", ".join(f"{box['class']} ({100 * box['score']:.0f} %)" for box in row["boxes"])
        lines.append(f"{row['drawn']}: {found or 'nothing'}")
    return "\n".join(lines)


def describe_detector_export(report: dict[str, Any]) -> str:
    """What was written and how it was proved, from `DetectorReport.to_dict()`."""
    about, size = report["metadata"], json.loads(report["metadata"]["input_size"])
    shape = format_image_size((size["height"], size["width"]))
    return (
        f"{report['path']}  {format_size(report['size_bytes'])}B, opset {report['opset']}\n"
        f"  raw heads of {about['detector']} at {shape} px: {', '.join(report['max_rel'])}\n"
        f"  on {report['images']} images: largest difference {max(report['max_rel'].values()):.1e} "
        f"of the largest value of an output"
    )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
