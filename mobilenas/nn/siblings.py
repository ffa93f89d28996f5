"""Parts of several archs that have one input: what they have in common is computed once.

A module made here gives a list: what each of the siblings makes of the input, in order.
"""

import copy
from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor, nn

from mobilenas.nn.blocks import ConvBN
from mobilenas.nn.choice_block import Branch, sums_of_paths
from mobilenas.nn.sharing import Shared, unshared
from mobilenas.space import Candidate

Module = TypeVar("Module", bound=nn.Module)


def with_own_norms(module: Module) -> Module:
    """A copy of a module with batch norms of its own, over the same convolutions, but for those
    that are parts of larger ones: these are copied.
    """
    known: dict[int, nn.Module] = {}  # what counts as copied already
    for part in module.modules():
        if isinstance(part, Shared):
            known[id(part)] = unshared(part)
        elif not isinstance(part, nn.BatchNorm2d) and not any(True for _ in part.children()):
            known[id(part)] = part
    return copy.deepcopy(module, known)


class Apart(nn.ModuleList):
    """Siblings that have nothing but their input in common."""

    def forward(self, x: Tensor) -> list[Tensor]:
        return [module(x) for module in self]


class Siblings(nn.Module):
    """Candidates of a block with the same expansion, over the convolutions of their branch.

    They share the 1x1 expansion and the depthwise paths (not linear ones, which fold), batch norms
    included, whose statistics depend on the input only. The sum over paths and all that follows are
    a candidate's own.
    """

    def __init__(self, branch: Branch, candidates: Sequence[Candidate]) -> None:
        super().__init__()
        self.kernels = [candidate.kernels for candidate in candidates]
        self.widths = branch.widths
        self.residual = branch.residual
        self.expand = with_own_norms(branch.expand)
        self.groups = nn.ModuleList()
        for paths, used in zip(branch.groups, zip(*self.kernels, strict=True), strict=True):
            names = sorted({f"k{k}" for kernels in used for k in kernels})
            self.groups.append(nn.ModuleDict({n: with_own_norms(paths[n]) for n in names}))  # type: ignore[index]
        self.ends = nn.ModuleList(_end(branch, c.num_paths) for c in candidates)

    def forward(self, x: Tensor) -> list[Tensor]:
        sums = sums_of_paths(self.expand(x), self.widths, self.groups, self.kernels)
        ends = (end(y) for end, y in zip(self.ends, sums, strict=True))
        return [x + y if self.residual else y for y in ends]


def _end(branch: Branch, num_paths: int) -> nn.Module:
    """Squeeze-excite, projection and the batch norm after it for that many active paths."""
    project = ConvBN(with_own_norms(branch.project), activation=None)
    project.bn = with_own_norms(branch.bn_for(num_paths))  # type: ignore[assignment]
    return nn.Sequential(with_own_norms(branch.squeeze_excite), project)
