"""Plain text for the terminal: spaces of cells."""

from dataclasses import asdict
from statistics import median
from typing import Any

from mobilenas.cost.cells import cell_count
from mobilenas.report.text import cost_lines
from mobilenas.space import CellSpace
from mobilenas.space.cells import OPS


def cell_space_facts(space: CellSpace) -> dict[str, Any]:
    """Choices, size and exact cost ranges, over the distinct cells, of a space as plain data."""
    distinct = space.distinct()
    counts = [asdict(cell_count(space, cell)) for cell in distinct]
    facts: dict[str, Any] = {
        "space": space.name,
        "description": space.spec.description,
        "resolution": space.resolution,
        "classes": space.num_classes,
        "choices": [space.num_archs],
        "num_archs": space.num_archs,
        "distinct": len(distinct),
        "ops": list(OPS),
        "max_paths": space.max_paths,
        "cells": [asdict(shape) for shape in space.shapes],
        "costs": ["flops", "params"],
    }
    for cost in facts["costs"]:
        values = sorted(count[cost] for count in counts)
        facts[cost] = {
            "minimum": values[0],
            "median": int(median(values)),
            "maximum": values[-1],
        }
    return facts


def describe_cell_space(facts: dict[str, Any]) -> str:
    """The facts of a space of cells for a reader."""
    channels = ", ".join(dict.fromkeys(str(cell["out_channels"]) for cell in facts["cells"]))
    lines = [
        f"{facts['space']}: {facts['description']}",
        f"one cell, {len(facts['cells'])} times; 1 to {facts['max_paths']} nodes, each one of "
        f"{', '.join(facts['ops'])}; channels {channels}",
        f"{facts['num_archs']} archs, {facts['distinct']} of them distinct, "
        f"{facts['resolution']} px, {facts['classes']} classes",
        "",
        cost_lines({cost: facts[cost] for cost in facts["costs"]}),
    ]
    return "\n".join(lines)
