"""Archs of cells whose edges have ops, and the two forms in which they are published."""

import ast
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mobilenas.base.errors import BadInput, one_line
from mobilenas.base.settings import Record, validated

Edge = tuple[str, int]  # its op, and the node that it comes from
Node = tuple[Edge, ...]  # the edges into it


@dataclass(frozen=True)
class Genotype:
    """The edges of each type of cell: one type with one input, or `normal` and `reduce` with two.

    cells: of each type its nodes, inputs left out. Edges into a node are sorted by where they come
    from, as their order says nothing. Text form: of one type that of NAS-Bench-201
    (`|nor_conv_3x3~0|+|none~0|skip_connect~1|`), of two that of DARTS (`Genotype(normal=...)`).
    """

    cells: tuple[tuple[Node, ...], ...]

    def __post_init__(self) -> None:
        ordered = (tuple(map(_sorted, nodes)) for nodes in self.cells)
        object.__setattr__(self, "cells", tuple(ordered))

    def __str__(self) -> str:
        if len(self.cells) == 1:
            return "+".join(
                "|" + "".join(f"{op}~{start}|" for op, start in node) for node in self.cells[0]
            )
        normal, reduce = ([edge for node in nodes for edge in node] for nodes in self.cells)
        concat = _all_nodes(len(self.cells[0]))
        return (
            f"Genotype(normal={normal}, normal_concat={concat}, "
            f"reduce={reduce}, reduce_concat={concat})"
        )

    @classmethod
    def parse(cls, text: str) -> "Genotype":
        """Read a text form; `EdgeCellSpace.parse` also checks the edges. Raises BadInput."""
        text = text.strip()
        return cls(_read_darts(text) if text.startswith("Genotype(") else (_read_nb201(text),))


class _Published(Record):
    """A genotype of DARTS: two edges a node, one node after the other."""

    normal: tuple[Edge, ...]
    normal_concat: tuple[int, ...]
    reduce: tuple[Edge, ...]
    reduce_concat: tuple[int, ...]


def _sorted(node: Iterable[Edge]) -> Node:
    return tuple(sorted(node, key=lambda edge: edge[1]))


def _all_nodes(nodes: int) -> list[int]:
    """The numbers of the nodes of a cell with two inputs."""
    return list(range(2, 2 + nodes))


def _read_nb201(text: str) -> tuple[Node, ...]:
    nodes = []
    for part in text.split("+"):
        edges = [edge.rpartition("~") for edge in part.strip("|").split("|")]
        if not all(op and start.isdecimal() and len(start) < 6 for op, _, start in edges):
            raise BadInput(
                f"cell {text!r}: {part!r} must be the edges into a node, as |nor_conv_3x3~0|"
            )
        nodes.append(tuple((op, int(start)) for op, _, start in edges))
    return tuple(nodes)


def _read_darts(text: str) -> tuple[tuple[Node, ...], ...]:
    try:
        call = ast.parse(text, mode="eval").body
        assert isinstance(call, ast.Call) and not call.args
        fields = {str(keyword.arg): _value(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError, TypeError, AssertionError, RecursionError, MemoryError) as e:
        raise BadInput(
            "genotype must be Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=[2, ...], "
            f"reduce=[...], reduce_concat=[...]): {one_line(e) or 'it is no such call'}"
        ) from None
    read = validated(_Published, fields, "genotype")
    cells = []
    for name in ("normal", "reduce"):
        edges, concat = getattr(read, name), getattr(read, f"{name}_concat")
        if len(edges) % 2:
            raise BadInput(f"genotype: {name} has {len(edges)} edges; each node must have two")
        nodes = tuple(zip(edges[::2], edges[1::2], strict=True))
        if sorted(concat) != _all_nodes(len(nodes)):
            raise BadInput(
                f"genotype: {name}_concat {list(concat)} must be all nodes, "
                f"{_all_nodes(len(nodes))}"
            )
        cells.append(nodes)
    return tuple(cells)


def _value(node: ast.expr) -> Any:
    """A literal, or the `range(2, 6)` of many published genotypes."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
        return list(range(*map(ast.literal_eval, node.args)))
    return ast.literal_eval(node)
