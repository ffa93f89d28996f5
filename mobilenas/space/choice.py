"""What may be chosen in a space."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Choice:
    """One thing to choose, by names. taken: how many candidates an arch has: one of the ops of an
    edge, maybe several of the edges into a node.
    """

    name: str
    candidates: tuple[str, ...]
    taken: int = 1
