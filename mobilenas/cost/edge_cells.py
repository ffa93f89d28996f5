"""FLOPs and parameters of networks of cells whose edges have ops: exact, additive, without torch.

They are those of networks trained stand-alone: every convolution has a batch norm with weight and
bias, and pools have none. An auxiliary head is not counted.
"""

from dataclasses import astuple
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mobilenas.cost.counts import Count, conv
from mobilenas.space import EdgeCellSpace, Genes
from mobilenas.space.edge_cells import EdgeCellShape, Features


def op_count(op: str, channels: int, size: int, stride: int) -> Count:
    """An op that keeps the channels; size: the side of its output."""
    area = size**2
    kernel = int(op[-1]) if op[-1].isdigit() else 0
    separable = conv(channels, channels, kernel, area, groups=channels, bn=False)
    separable += conv(channels, channels, 1, area)
    if op.startswith("nor_conv"):
        return conv(channels, channels, kernel, area)
    if op.startswith("dil_conv"):
        return separable
    if op.startswith("sep_conv"):
        return separable + separable
    # Where a shortcut halves the size, it is two 1x1 convolutions of half the channels.
    return conv(channels, channels, 1, area) if op == "skip_connect" and stride > 1 else Count()


def enter_count(shape: EdgeCellShape, before: Features, residual: bool) -> Count:
    """What brings an input of a cell to its size and channels: nothing or a residual block, as in
    NAS-Bench-201, or a 1x1 convolution.
    """
    cin, cout, area = before.channels, shape.states.channels, shape.states.size**2
    if not residual:
        return conv(cin, cout, 1, area)
    if before == shape.states:
        return Count()
    return conv(cin, cout, 3, area) + conv(cout, cout, 3, area) + conv(cin, cout, 1, area, bn=False)


def edge_cell_fixed(space: EdgeCellSpace) -> Count:
    """Stem, what leads into cells, and head: what every arch has."""
    spec, last = space.spec, space.shapes[-1].output
    total = Count()
    if spec.skeleton == "darts_imagenet":
        half = Features(spec.channels // 2, spec.resolution // 2)
        chain = [Features(spec.in_channels, spec.resolution), half, *space.stem]
    else:
        chain = [Features(spec.in_channels, spec.resolution), space.stem[0]]
    for before, after in pairwise(chain):
        total += conv(before.channels, after.channels, 3, after.size**2)
    for shape in space.shapes:
        for before in shape.inputs:
            total += enter_count(shape, before, residual=spec.skeleton == "nb201")
    if spec.skeleton == "nb201":
        total += Count(0, 2 * last.channels)  # a last batch norm
    linear = last.channels * spec.num_classes
    return total + Count(linear, linear + spec.num_classes)


def edge_cell_counts(space: EdgeCellSpace) -> list[list[Count]]:
    """Of each choice of a space its candidates, in all cells together."""
    counts = [[Count() for _ in choice.candidates] for choice in space.choices]
    for shape in space.shapes:
        for edge, (start, _) in enumerate(space.edges):
            row = counts[shape.kind * len(space.edges) + edge]
            for index, op in enumerate(space.spec.ops):
                row[index] += op_count(
                    op, shape.nodes.channels, shape.nodes.size, shape.stride(start)
                )
    return counts


def edge_cell_costs(space: EdgeCellSpace, genes: Genes) -> dict[str, NDArray[np.int64]]:
    """FLOPs and params, (n,) each, of genes (n, choices)."""
    # (choices, ops + 1, 2): an edge that is not there has the index -1, and costs nothing.
    table = np.array(
        [[astuple(count) for count in [*row, Count()]] for row in edge_cell_counts(space)]
    )
    total = table[np.arange(len(table)), genes].sum(axis=1) + astuple(edge_cell_fixed(space))
    return dict(zip(("flops", "params"), total.T, strict=True))
