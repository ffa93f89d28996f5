"""What a strategy chooses among."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Choice:
    """One thing to choose, of which an arch has one candidate: a block, or the op of an edge.

    in_degree: only where the candidates are the edges into a node, how many of them an arch has.
    """

    name: str
    candidates: tuple[str, ...]
    in_degree: int | None = None
