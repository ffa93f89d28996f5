"""Plain text for the terminal: spaces of cells whose edges have ops."""

from dataclasses import asdict
from typing import Any

from mobilenas.cost.edge_model import EdgeCellCosts
from mobilenas.report.text import cost_lines, format_number
from mobilenas.space import EdgeCellSpace


def edge_cell_space_facts(space: EdgeCellSpace) -> dict[str, Any]:
    """Choices, size and cost ranges of a space as plain data; medians are of drawn genotypes."""
    costs = EdgeCellCosts(space)
    return {
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
        "costs": list(costs.costs),
        **{cost: asdict(costs.range(cost)) for cost in costs.costs},
    }


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
        f"{format_number(facts['num_archs'], 6)} archs, "
        f"{facts['resolution']} px, {facts['classes']} classes",
        "",
        cost_lines({cost: facts[cost] for cost in facts["costs"]}),
    ]
    return "\n".join(lines)
