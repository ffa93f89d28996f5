"""Plain text for the terminal: spaces of cells whose edges have ops."""

from dataclasses import asdict
from statistics import median
from typing import Any

import numpy as np

from mobilenas.cost.edge_cells import edge_cell_counts
from mobilenas.cost.model import flops_and_params
from mobilenas.report.text import cost_lines
from mobilenas.space import EdgeCellSpace

_DRAWN = 2000  # genotypes, for the medians


def edge_cell_space_facts(space: EdgeCellSpace) -> dict[str, Any]:
    """Choices, size and cost ranges of a space as plain data; medians are of drawn genotypes."""
    facts: dict[str, Any] = {
        "space": space.name,
        "description": space.spec.description,
        "resolution": space.resolution,
        "classes": space.num_classes,
        "choices": [len(choice.candidates) for choice in space.choices],
        "num_archs": space.num_archs,
        "ops": list(space.spec.ops),
        "types": len(space.skeleton.types),
        "edges": len(space.edges),
        "in_degree": space.skeleton.in_degree,
        "cells": [asdict(shape) for shape in space.shapes],
        "costs": ["flops", "params"],
    }
    counts = edge_cell_counts(space)
    rng = np.random.default_rng(0)
    drawn = flops_and_params(space, [space.sample(rng) for _ in range(_DRAWN)])
    for cost in facts["costs"]:
        # Costs of inputs are 0, and each edge is worth as much as any other.
        scores = [
            np.array([getattr(count, cost) for count in row])
            if choice.in_degree is None
            else np.ones(len(row))
            for row, choice in zip(counts, space.choices, strict=True)
        ]
        extremes = [space.strongest([sign * row for row in scores]) for sign in (-1, 1)]
        smallest, largest = flops_and_params(space, extremes)[cost].tolist()
        facts[cost] = {
            "minimum": smallest,
            "median": int(median(drawn[cost].tolist())),
            "maximum": largest,
        }
    return facts


def describe_edge_cell_space(facts: dict[str, Any]) -> str:
    """The facts of a space of cells whose edges have ops for a reader."""
    cells, degree = facts["cells"], facts["in_degree"]
    channels = ", ".join(dict.fromkeys(str(cell["nodes"]["channels"]) for cell in cells))
    kinds = "of one type"
    if facts["types"] > 1:
        kinds = f"{sum(cell['kind'] for cell in cells)} of them reduction cells"
    kept = f", of which an arch has {degree} into each node" if degree else ""
    lines = [
        f"{facts['space']}: {facts['description']}",
        f"{len(cells)} cells, {kinds}; channels {channels}",
        f"{facts['edges']} edges a type{kept}, each one of {', '.join(facts['ops'])}",
        f"{facts['num_archs']:.6g} archs, {facts['resolution']} px, {facts['classes']} classes",
        "",
        cost_lines({cost: facts[cost] for cost in facts["costs"]}),
    ]
    return "\n".join(lines)
