"""Model cards in the form of the Hugging Face hub: front matter, then what a reader asks."""

import json
from collections.abc import Mapping
from typing import Any

import yaml

from mobilenas import __version__
from mobilenas.base.intervals import wilson
from mobilenas.base.units import format_size
from mobilenas.cost.titles import format_cost

_TAGS = ["image-classification", "timm", "mobilenas", "neural-architecture-search"]


def network_card(
    result: Mapping[str, Any],
    settings: Mapping[str, Any],
    data: Mapping[str, Any],
) -> str:
    """The card of a network that was trained stand-alone; nothing in it depends on the clock.

    result: of its result.json; settings: of its run; data: as `Found.to_dict` has them.
    """
    tested = result["test_images"] > 0
    share = result["test_accuracy"] if tested else result["accuracy"]
    images = f"{result['test_images']} test images"
    if not tested:
        images = f"{result['validation_images']} validation images, by which its epoch was chosen"
    low, high = wilson(round(share * _images(result)), _images(result))
    source, arch, space = data["source"], result["arch"], settings["space"]
    start = "the weights that it has in a supernet" if settings.get("inherit") else "fresh weights"
    start = "a saved network" if settings.get("weights") else start
    config = settings["config"]
    lines = [
        f"# {_code(arch)}",
        "",
        f"A network of the space {_code(result['space'])}, trained on {_code(source)}.",
        "",
        f"Top-1 accuracy: **{100 * share:.2f} %** on {images} (95 % interval by their number: "
        f"{100 * low:.1f} to {100 * high:.1f} %; one seed).",
        "",
        "| cost | |",
        "|---|---|",
        f"| FLOPs (multiply-adds, one image) | {format_size(result['flops'])} |",
        f"| params | {format_size(result['params'])} |",
        *([f"| peak memory | {_memory(result)} |"] if "memory" in result else []),
        *(
            f"| latency on {_code(name)}, predicted | {ms:.3g} ms |"
            for name, ms in result["latency_ms"].items()
        ),
        "",
        f"Input: RGB, {space['resolution']} x {space['resolution']} px. Data: "
        f"{data['train_images']} training images of {len(data['classes'])} classes.",
        "",
        f"Training: {config['epochs']:g} epochs with {config['optimizer']}, batches of "
        f"{config['batch_size']}, seed {settings['seed']}, from {start}. "
        f"mobilenas {__version__}; the run's run.json has every setting.",
        "",
        "```python",
        "import mobilenas.timm, timm  # the first registers the models",
        "",
        'model = timm.create_model("local-dir:FOLDER", pretrained=True)',
        "```",
        "",
        "The license is unknown: it depends on that of the images. Say it before you publish.",
    ]
    metric = {"type": "accuracy", "name": f"top-1 on {images}", "value": round(share, 6)}
    about = {
        "license": "unknown",
        "library_name": "timm",
        "pipeline_tag": "image-classification",
        "tags": _TAGS,
        "metrics": ["accuracy"],
        "model-index": [
            {
                "name": arch,
                "results": [
                    {
                        "task": {"type": "image-classification"},
                        "dataset": {"name": source, "type": source},
                        "metrics": [metric],
                    }
                ],
            }
        ],
    }
    return _card(about, lines)


def export_card(report: Mapping[str, Any], name: str) -> str:
    """The card of an exported file. report: `Report.to_dict()`; name: of the file."""
    about, check = report["metadata"], report["verification"]
    worst = max(row["max_rel"] for row in check["parity"])
    lines = [
        f"# {_code(name)}",
        "",
        f"{_code(about['arch'])} of the space {_code(about['space'])} for {report['runtime']}, "
        f"{report['dtype']}, {format_size(report['size_bytes'])}B.",
        "",
        f"- FLOPs (multiply-adds): {format_size(int(about['flops_multiply_adds']))}",
        f"- input: {about['input_layout']}; {about['input_resize']}",
        f"- logits differ from torch by at most {worst:.1e} of the largest one, on "
        f"{check['images']} images",
    ]
    if "top1_accuracy" in about:
        on = about["top1_accuracy_on"]
        lines.append(f"- top-1 accuracy: {100 * float(about['top1_accuracy']):.2f} % on {on}")
    classes = json.loads(about["classes"])
    lines += [f"- {len(classes)} classes, whose names are in its metadata", ""]
    lines.append(f"Written by mobilenas {__version__}. The license is unknown.")
    library = {"license": "unknown", "library_name": report["runtime"], "tags": _TAGS[:1]}
    return _card(library, lines)


def _images(result: Mapping[str, Any]) -> int:
    return int(result["test_images"] or result["validation_images"])


def _memory(result: Mapping[str, Any]) -> str:
    return format_cost("memory", result["memory"])


def _card(about: Mapping[str, Any], lines: list[str]) -> str:
    front = yaml.safe_dump(dict(about), sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n\n" + "\n".join(lines) + "\n"


def _code(text: str) -> str:
    """A name as code: names of users may have the signs of Markdown or HTML in them."""
    return f"`{' '.join(text.replace('`', chr(39)).split())}`"
