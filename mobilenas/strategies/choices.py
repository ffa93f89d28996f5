"""What a strategy chooses, by names."""

from dataclasses import dataclass
from itertools import accumulate

from mobilenas.space import Choice

PASSING = ("id", "skip_connect")  # candidates that pass on their input


@dataclass(frozen=True)
class Choices:
    """ops: of each block its candidates, of each edge of a type of cells its ops. inputs: of each
    node of a type of cells the edges into it; blocks have none. alike: the blocks of each stage
    that have one shape and the same candidates, where there are several.
    """

    ops: tuple[Choice, ...]
    inputs: tuple[Choice, ...] = ()
    alike: tuple[tuple[int, ...], ...] = ()

    @property
    def sizes(self) -> list[int]:
        """Number of candidates of each of `ops`."""
        return [len(choice.candidates) for choice in self.ops]

    @property
    def skips(self) -> list[tuple[int, int]]:
        """Among `ops`, choice and index of each candidate that passes on its input."""
        return [
            (place, index)
            for place, choice in enumerate(self.ops)
            for index, name in enumerate(choice.candidates)
            if name in PASSING
        ]

    @property
    def into(self) -> list[slice]:
        """Of each of `inputs` its edges among `ops`, where these are in the same order."""
        ends = list(accumulate(len(node.candidates) for node in self.inputs))
        return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
