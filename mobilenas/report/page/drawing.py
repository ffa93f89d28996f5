"""Archs as drawings: what stands where, as plain data that a page turns into SVG."""

from typing import Any

from mobilenas.base.errors import BadInput
from mobilenas.space import Arch, EdgeCellSpace, Genotype, ListedSpace, Space

Drawing = dict[str, Any]

_STEP, _RISE, _LINE = 118, 30, 26  # of a graph: between nodes, of an arc a node, of a text

_SHORT = {
    "none": "none",
    "skip_connect": "skip",
    "avg_pool_3x3": "avg pool 3×3",
    "max_pool_3x3": "max pool 3×3",
    "nor_conv_1x1": "conv 1×1",
    "nor_conv_3x3": "conv 3×3",
    "sep_conv_3x3": "sep 3×3",
    "sep_conv_5x5": "sep 5×5",
    "dil_conv_3x3": "dilated 3×3",
    "dil_conv_5x5": "dilated 5×5",
}


def draw(space: ListedSpace, text: str) -> Drawing:
    """An arch by its text form: `blocks`, or `cells` as graphs; and `parts`, (name, text) of each
    choice, by which two archs are compared. Raises BadInput for an arch of another space, and for a
    space of one cell without edges, of which no command makes a front.
    """
    if isinstance(space, Space):
        return _draw_blocks(space, space.parse(text))
    if isinstance(space, EdgeCellSpace):
        return _draw_edges(space, space.parse(text))
    raise BadInput(f"{space.name} has no archs that are drawn")


def _draw_blocks(space: Space, arch: Arch) -> Drawing:
    blocks = []
    for block, candidate in zip(space.layers, space.candidates_of(arch), strict=True):
        built = block.folded(candidate)
        blocks.append(
            {
                "name": block.name,
                "text": str(candidate),
                "searched": block.searchable,
                "expansion": candidate.expansion,
                "kernels": [list(group) for group in built.kernels],
                "in": block.in_channels,
                "hidden": block.in_channels * max(candidate.expansion, 1),
                "out": block.out_channels,
                "stride": block.stride,
                "size": block.out_size,
                "skips": candidate.is_identity and block.keeps_shape,
            }
        )
    return {
        "form": "blocks",
        "resolution": space.resolution,
        "stem": space.stem_channels,
        "head": space.head_channels,
        "classes": space.num_classes,
        "blocks": blocks,
        "parts": [[b.name, str(c)] for b, c in zip(space.blocks, arch.blocks, strict=True)],
    }


def _draw_edges(space: EdgeCellSpace, genotype: Genotype) -> Drawing:
    inputs = space.skeleton.inputs
    cells, parts = [], []
    for kind, nodes in zip(space.skeleton.types, genotype.cells, strict=True):
        names = ["input"] if inputs == 1 else ["cell before last", "last cell"]
        names += [f"node {end}" for end in space.nodes]
        edges = [
            (start, end, op)
            for end, node in zip(space.nodes, nodes, strict=True)
            for op, start in node
        ]
        parts += [[f"{kind}edge {start}-{end}", _SHORT[op]] for start, end, op in edges]
        cells.append(_graph(f"{kind or 'the '}cell", names, edges))
    return {
        "form": "cells",
        "resolution": space.resolution,
        "classes": space.num_classes,
        "count": len(space.shapes),
        "cells": cells,
        "parts": parts,
    }


def _graph(title: str, names: list[str], edges: list[tuple[int, int, str]]) -> Drawing:
    """An arc diagram: nodes in a row, an edge an arc above it, the higher the farther it goes.

    Coordinates are in pixels, from the upper left.
    """
    longest = max((end - start for start, end, _ in edges), default=1)
    ground = longest * _RISE + 2 * _LINE
    arcs = []
    for start, end, op in edges:
        left, right = (_STEP * (node + 0.5) for node in (start, end))
        top = ground - (end - start) * _RISE
        # The top of a cubic curve lies at three quarters of its handles.
        handle = ground - (ground - top) * 4 / 3
        arcs.append(
            {
                "op": _SHORT[op],
                "family": op.partition("_")[0],
                "path": f"M{left:g},{ground:g} C{left:g},{handle:g} "
                f"{right:g},{handle:g} {right:g},{ground:g}",
                "x": (left + right) / 2,
                "y": top - 5,
                "from": names[start],
                "to": names[end],
            }
        )
    nodes = [{"name": name, "x": _STEP * (i + 0.5), "y": ground} for i, name in enumerate(names)]
    size = {"width": _STEP * len(names), "height": ground + 2 * _LINE}
    return {"title": title.strip(), **size, "nodes": nodes, "arcs": arcs}
