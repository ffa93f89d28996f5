"""FLOPs and parameters of networks of cells, as NAS-Bench-101 has them: exact, without torch."""

from mobilenas.cost.counts import Count, conv
from mobilenas.space import Cell, CellSpace
from mobilenas.space.cells import CellShape


def cell_count(space: CellSpace, cell: Cell) -> Count:
    """FLOPs and params of the benchmark's network of a cell, whose sum has no batch norm.

    Only the last node of a cell leads to its output, so every node has all output channels.
    """
    spec, last = space.spec, space.shapes[-1]
    total = conv(spec.in_channels, spec.channels, 3, spec.resolution**2)
    for shape in space.shapes:
        for op in cell.present:
            total += conv(shape.in_channels, shape.out_channels, 1, shape.size**2) + _op(shape, op)
        total += conv(shape.out_channels, shape.out_channels, 1, shape.size**2)
    linear = last.out_channels * spec.num_classes
    return total + Count(linear, linear + spec.num_classes)


def _op(shape: CellShape, op: str) -> Count:
    if op == "mp":
        return Count()
    return conv(shape.out_channels, shape.out_channels, {"c1": 1, "c3": 3}[op], shape.size**2)
