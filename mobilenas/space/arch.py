"""Archs and the candidates that they are made of, with a text form that is their name everywhere.

A block of an arch is written `e6k35`: expansion 6, parallel depthwise kernels 3 and 5. A dot
separates channel groups (`e3k3.5.7.9`: four groups, one kernel each), `id` is the identity. Blocks
are joined by `_`: `e3k3_e6k35_id`. Only letters, digits, `.` and `_`: safe in file names.
"""

import re
from dataclasses import dataclass
from functools import cached_property

from mobilenas.base.errors import BadInput

MOST_EXPANSION = 64

_CANDIDATE = re.compile(r"e([1-9]\d{0,3})k([13579]+(?:\.[13579]+)*)")


@dataclass(frozen=True, order=True)
class Candidate:
    """One way to build a block.

    kernels: per channel group the sizes of the active depthwise kernels, ascending; no group at all
    means the identity (a 1x1 convolution with batch norm where the shape changes).
    """

    expansion: int
    kernels: tuple[tuple[int, ...], ...]

    @property
    def is_identity(self) -> bool:
        return not self.kernels

    @property
    def num_paths(self) -> int:
        """Number of active paths: summed outputs a channel group, the k of SBN_k."""
        return len(self.kernels[0]) if self.kernels else 0

    def __str__(self) -> str:
        return self._text

    @cached_property  # a search writes the texts of many archs, all of the same candidates
    def _text(self) -> str:
        if self.is_identity:
            return "id"
        groups = ["".join(map(str, group)) for group in self.kernels]
        return f"e{self.expansion}k{'.'.join(groups)}"

    @classmethod
    def parse(cls, text: str) -> "Candidate":
        """Read a text form. Raises BadInput that says what a candidate looks like."""
        if text == "id":
            return IDENTITY
        match = _CANDIDATE.fullmatch(text)
        if not match:
            raise BadInput(
                f"{text!r} is not a candidate: write e<expansion>k<kernels>, such as e6k35, or id"
            )
        groups = tuple(tuple(int(k) for k in group) for group in match[2].split("."))
        for group in groups:
            if list(group) != sorted(set(group)):
                raise BadInput(f"{text!r}: kernels of a group are ascending and distinct")
        if len({len(group) for group in groups}) > 1:
            raise BadInput(f"{text!r}: every channel group has the same number of kernels")
        if int(match[1]) > MOST_EXPANSION:
            raise BadInput(f"{text!r}: the expansion is at most {MOST_EXPANSION}")
        return cls(int(match[1]), groups)


IDENTITY = Candidate(0, ())


@dataclass(frozen=True)
class Arch:
    """One network of a space: a candidate for each searchable block. Immutable and hashable."""

    blocks: tuple[Candidate, ...]

    def __str__(self) -> str:
        return "_".join(map(str, self.blocks))

    def __len__(self) -> int:
        return len(self.blocks)

    @classmethod
    def parse(cls, text: str) -> "Arch":
        """Read a text form; `Space.parse` also checks it. Raises BadInput naming the block."""
        blocks = []
        for number, part in enumerate(text.strip().split("_"), start=1):
            try:
                blocks.append(Candidate.parse(part))
            except BadInput as error:
                raise BadInput(f"arch block {number}: {error}") from None
        return cls(tuple(blocks))
