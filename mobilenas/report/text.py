"""Plain text for the terminal: spaces, fronts, checks."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from mobilenas.base.units import format_size
from mobilenas.cost import CostModel, supernet_params
from mobilenas.cost.titles import cost_title, format_cost, format_limits, is_cost
from mobilenas.space import space_from_dict


def space_facts(cost_model: CostModel, limits: dict[str, float]) -> dict[str, Any]:
    """Choices, size and cost ranges of a space as plain data; `feasible_share` under limits."""
    space = cost_model.space
    facts: dict[str, Any] = {
        "space": space.name,
        "description": space.spec.description,
        "resolution": space.resolution,
        "classes": space.num_classes,
        "path_activation": space.spec.path_activation,
        "searched_blocks": len(space.blocks),
        "choices": [len(block.candidates) for block in space.blocks],
        "num_archs": space.num_archs,
        "supernet_params": supernet_params(space),
        "blocks": [
            {
                "name": block.name,
                "in": block.in_channels,
                "out": block.out_channels,
                "stride": block.stride,
                "size": block.out_size,
                "choices": len(block.candidates),
                "expansions": list(block.expansions),
                "kernels": list(block.kernels),
                "max_paths": block.max_paths,
                "groups": block.groups,
                "identity": any(c.is_identity for c in block.candidates),
            }
            for block in space.layers
        ],
    }
    facts["costs"] = list(cost_model.costs)
    for cost in cost_model.costs:
        facts[cost] = asdict(cost_model.range(cost))
    if limits:
        facts["limits"] = limits
        facts["feasible_share"] = cost_model.feasible_share(dict(limits))
    return facts


def format_number(count: int, digits: int) -> str:
    """Any whole number above 0 with so many digits; of very large ones the power of ten."""
    return f"{count:.{digits}g}" if count < 10**300 else f"10^{math.floor(math.log10(count))}"


def describe_space(facts: dict[str, Any]) -> str:
    """The facts of a space for a reader."""
    lines = [
        f"{facts['space']}: {facts['description']}",
        f"{facts['searched_blocks']} searched blocks, "
        f"{format_number(facts['num_archs'], 3)} archs, "
        f"{facts['resolution']} px, {facts['classes']} classes, "
        f"supernet of {format_size(facts['supernet_params'])} params",
    ]
    if facts["path_activation"] == "after_sum":
        lines.append("linear paths, which fold into one convolution: costs are of folded networks")
    lines += [
        "",
        f"{'layer':14} {'channels':>11} {'stride':>6} {'size':>5} {'choices':>7}  candidates",
    ]
    lines += [_block_line(block) for block in facts["blocks"]]
    lines += ["", cost_lines({cost: facts[cost] for cost in facts["costs"]})]
    if "limits" in facts:
        lines.append(f"{_share(facts)} of the space has {format_limits(facts['limits'])}")
    return "\n".join(lines)


def _share(facts: dict[str, Any]) -> str:
    """How much of a space is within its limits; what archs that were drawn hardly show is not 0."""
    if any(limit < facts[cost]["minimum"] for cost, limit in facts["limits"].items()):
        return "no arch"
    share = 100 * facts["feasible_share"]
    return "less than 0.1 %" if share < 0.05 else f"{share:.1f} %"


def cost_lines(ranges: dict[str, dict[str, float]]) -> str:
    """Smallest, median and largest value of each cost."""
    cells = [["", "min", "median", "max"]]
    for cost, extent in ranges.items():
        values = (extent[key] for key in ("minimum", "median", "maximum"))
        cells.append([cost_title(cost), *(format_cost(cost, value) for value in values)])
    first, *others = (max(map(len, column)) for column in zip(*cells, strict=True))
    return "\n".join(
        f"{name:{first}}" + "".join(f"  {x:>{n}}" for x, n in zip(values, others, strict=True))
        for name, *values in cells
    )


def table(rows: list[dict[str, Any]], columns: dict[str, str]) -> str:
    """Rows under the columns {key: title}; costs and shares as people write them."""
    cells = [list(columns.values())]
    cells += [[_cell(key, row[key]) for key in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


def _cell(key: str, value: object) -> str:
    if key.startswith(("accuracy", "prediction", "deviation", "trained")) and isinstance(
        value, float
    ):
        return f"{100 * value:.2f} %"
    if key in ("score", "naswot") and isinstance(value, float):
        return f"{value:.2f}"
    if is_cost(key) and isinstance(value, int | float):
        return format_cost(key, value)
    return str(value)


def _block_line(block: dict[str, Any]) -> str:
    expansions = "/".join(map(str, block["expansions"]))
    kernels = "/".join(map(str, block["kernels"]))
    words = [f"expansion {expansions}", f"kernels {kernels}"]
    if block["max_paths"] > 1:
        words.append(f"1 to {block['max_paths']} paths")
    if block["groups"] > 1:
        words.append(f"{block['groups']} channel groups")
    if block["identity"]:
        words.append("identity")
    channels = f"{block['in']} -> {block['out']}"
    return (
        f"{block['name']:14} {channels:>11} {block['stride']:>6} {block['size']:>5} "
        f"{block['choices']:>7}  {', '.join(words)}"
    )


def front_table(front: list[dict[str, Any]], trained: Mapping[str, float] | None = None) -> str:
    """The archs of a front, cheapest first, with all qualities and costs that their rows have.

    trained: stand-alone accuracies (0..1) of some archs by their text forms.
    """
    costs = {key: cost_title(key) for key in front[0] if is_cost(key)}
    names = ("score", "prediction", "deviation", "trained", "accuracy", "naswot")
    known = trained or {}
    rows = [row | {"trained": known.get(row["arch"], "")} for row in front] if known else front
    qualities = {key: "supernet" if known and key == "accuracy" else key for key in names}
    columns = {key: title for key, title in qualities.items() if key in rows[0]}
    return table(rows, columns | costs | {"arch": "arch", "flops": "FLOPs"})


def sweep_table(found: Mapping[str, Any]) -> str:
    """The best arch under each budget of a sweep, and how much the searches have shared."""
    rows = [row["best"] | {k: row[k] for k in ("budget", "front")} for row in found["budgets"]]
    lines = front_table(rows).splitlines()
    names = table(rows, {"budget": "budget", "front": "front"}).splitlines()
    width = max(map(len, names))
    shared = found["evaluations"] - found["measured"]
    return "\n".join(
        [f"{name.ljust(width)}  {line}" for name, line in zip(names, lines, strict=True)]
        + [
            f"{found['evaluations']:,} evaluations, of {found['measured']:,} archs: {shared:,} "
            "were known from another budget"
        ]
    )


def seeds_table(rows: list[dict[str, Any]]) -> str:
    """What searches found that differ in their seed, and the mean of published accuracies."""
    sets = dict.fromkeys(name for row in rows for name in row["standing"])
    shown = [
        {key: row[key] for key in row if key == "arch" or is_cost(key)}
        | {"seed": row["seed"]}
        | {f"accuracy {name}": row["standing"].get(name, {}).get("accuracy", "") for name in sets}
        for row in rows
    ]
    costs = {key: cost_title(key) for key in shown[0] if is_cost(key)}
    known = {f"accuracy {name}": name for name in sets}
    lines = [table(shown, {"seed": "seed"} | known | costs | {"arch": "arch", "flops": "FLOPs"})]
    for name in sets:
        found = [row["standing"][name] for row in rows if name in row["standing"]]
        values = [100 * standing["accuracy"] for standing in found]
        if len(values) > 1:
            mean, sd = statistics.fmean(values), statistics.stdev(values)
            lines.append(f"{name}: {mean:.2f} ± {sd:.2f} % over {len(values)} seeds")
    return "\n".join(lines)


def describe_export(report: dict[str, Any]) -> str:
    """What was written and how it was proved, from `Report.to_dict()`."""
    check, about = report["verification"], report["metadata"]
    accuracy = "accuracy not stated"
    if "top1_accuracy" in about:
        accuracy = f"{100 * float(about['top1_accuracy']):.2f} % on {about['top1_accuracy_on']}"
    opset = "" if report["opset"] is None else f", opset {report['opset']}"
    lines = [
        f"{report['path']}  {format_size(report['size_bytes'])}B{opset}, {report['runtime']}, "
        f"{report['dtype']}, {about['input_layout']}; converted in {report['seconds']:.1f} s",
        f"  {about['arch']}: {format_size(int(about['flops_multiply_adds']))} FLOPs, {accuracy}",
    ]
    lines += [
        f"  batch {p['batch_size']}: largest difference {p['max_abs']:.1e} "
        f"({p['max_rel']:.1e} of the largest logit), "
        f"top-1 agreement {100 * p['top1_agreement']:.1f} %"
        for p in check["parity"]
    ]
    shares = check["torch_accuracy"], check["exported_accuracy"]
    before, after = ("-" if share is None else f"{100 * share:.2f} %" for share in shares)
    lines += [f"  on {check['images']} images; accuracy of torch {before}, of the file {after}"]
    if "verified_in" in about:
        lines += [
            f"  {report['runtime']} does not run here: the file was run by {about['verified_in']}"
        ]
    if check["nodes"]:
        nodes = ", ".join(f"{count} {op}" for op, count in check["nodes"].items())
        lines += [f"  nodes: {nodes}"]
    if report["scheme"] is not None:
        lines += [f"  quantised: {report['scheme']}"]
    for trial in report["trials"]:
        share = "" if trial["accuracy"] is None else f"accuracy {100 * trial['accuracy']:.2f} %, "
        lines.append(
            f"    tried: {trial['scheme']}: {share}top-1 agreement {100 * trial['agreement']:.2f} %"
        )
    return "\n".join(lines)


def describe_training(result: dict[str, Any], seconds: float) -> str:
    """The result of a stand-alone training, from its result.json."""
    lines = [
        f"{result['arch']}, {format_size(result['flops'])} FLOPs, "
        f"{format_size(result['params'])} params, {seconds / 60:.1f} minutes",
        f"accuracy {100 * result['accuracy']:.2f} % on {result['validation_images']} validation "
        f"images, of the best epoch (last: {100 * result['last_accuracy']:.2f} %)",
    ]
    if result["test_images"]:
        share = 100 * result["test_accuracy"]
        lines.append(f"accuracy {share:.2f} % on {result['test_images']} test images")
    lines += [f"{ms:.2f} ms on {device}" for device, ms in result["latency_ms"].items()]
    return "\n".join(lines)


def describe_truth(rows: list[dict[str, Any]]) -> str:
    """Accuracies of stand-alone trainings, rows of a truth file by FLOPs, and how far apart."""
    lines = [table(rows, {"accuracy": "accuracy", "flops": "FLOPs", "arch": "arch"})]
    if rows:
        accuracies = [row["accuracy"] for row in rows]
        mean, images = sum(accuracies) / len(rows), rows[0]["validation_images"]
        noise = math.sqrt(mean * (1 - mean) / images)
        lines.append(
            f"{100 * min(accuracies):.2f} to {100 * max(accuracies):.2f} % on {images} validation "
            f"images, whose number alone makes a standard error of {100 * noise:.1f} points"
        )
    return "\n".join(lines)


def describe_evaluation(result: dict[str, Any]) -> str:
    """Accuracies with their intervals and what they are of, from `Evaluation.to_dict()`."""
    lines = []
    for name in ("top1", "top5"):
        if result[name] is not None:
            low, high = (100 * end for end in result[f"{name}_interval"])
            title = f"top-{name[-1]}"
            lines.append(f"{title}  {100 * result[name]:.2f} %  ({low:.1f} to {high:.1f} %)")
    lines.append(
        f"{result['images']}; short side to {result['short_side']} px, centre "
        f"{result['resolution']} px; {result['runtime']}; 95 % intervals (Wilson)"
    )
    return "\n".join(lines)


def trained_accuracy(found: Mapping[str, Any]) -> dict[str, float]:
    """The stand-alone accuracies (0..1) that a search knows, by the canonical text form of the
    arch, and by what its front has for it. found: the content of front.json.
    """
    truth = found.get("truth", {})
    known = {**truth.get("accuracy", {}), **truth.get("trained_last", {})}
    if not known:
        return {}
    space = space_from_dict(found["settings"]["space"])
    names = {row["arch"]: str(space.canonical(space.parse(row["arch"]))) for row in found["front"]}
    return known | {arch: known[name] for arch, name in names.items() if name in known}


def selected_on(found: Mapping[str, Any]) -> str:
    """What the accuracies of a search rest on. found: the content of front.json."""
    settings = found["settings"]
    count = settings["evaluator"]["validation_images"]
    line = f"accuracy on {count} validation images, those that the search selected on"
    if "score" in settings["objectives"]:
        line += (
            "\nscore: accuracy + naswot (of the untrained network), each in standard deviations of "
            "the first population"
        )
    if "prediction" in found:
        line = (
            f"supernet: {line}\ntrained: stand-alone accuracy, where it is known\n"
            f"{describe_prediction(found['prediction'], len(found['truth']['accuracy']))}"
        )
    return line


def describe_prediction(kendall: Mapping[str, Mapping[str, float | None]], archs: int) -> str:
    """How far a prediction is to be trusted, beside each of its features alone."""

    def shown(tau: Mapping[str, float | None]) -> str:
        if tau["value"] is None:
            return "undefined"
        return f"{tau['value']:.2f} [{tau['low']:.2f}, {tau['high']:.2f}]"

    others = ", ".join(f"{name} {shown(x)}" for name, x in kendall.items() if name != "prediction")
    return (
        f"prediction: from {archs} stand-alone accuracies; Kendall's tau of each with what the"
        f" others predict {shown(kendall['prediction'])} (95 % interval); alone: {others}"
    )


def standing_lines(standing: dict[str, dict[str, Any]]) -> list[str]:
    """What an arch is worth among all others, a line for each data set of a benchmark."""
    return [
        f"{name}: {100 * x['accuracy']:.2f} %, place {x['place']:,} of {x['total']:,}; the best "
        f"with at most its {' or '.join(cost_title(cost) for cost in x['regret'])} has "
        f"{' or '.join(f'{100 * points:.2f}' for points in x['regret'].values())} points more; a "
        f"random one {100 * x['random_mean']:.2f} ± {100 * x['random_sd']:.2f} %, the largest "
        f"{100 * x['largest']:.2f} %"
        for name, x in standing.items()
    ]
