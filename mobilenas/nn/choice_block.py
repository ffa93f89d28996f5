"""All candidates of a block in a supernet: weights, and what of them a view runs."""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from mobilenas.base.errors import BadInput
from mobilenas.nn.blocks import InvertedBottleneck, Kernels, Paths, identity, is_watched
from mobilenas.nn.kernels import may_take
from mobilenas.nn.sharing import Sharing, plain_state, shared
from mobilenas.nn.views import View, mix
from mobilenas.space import Block, Candidate

_KEPT = 32  # plain blocks of a branch; with four channel groups there may be thousands


class Branch(InvertedBottleneck):
    """The weights of all paths of one expansion in a supernet.

    The batch norm after the projection, or after the sum of linear paths, is chosen by the number
    of active paths (shadow batch norm, Chu et al. 2020) when there are several; a single one serves
    all numbers.
    """

    def __init__(self, *arguments: Any, **modules: Any) -> None:
        super().__init__(*arguments, **modules)
        self._chosen: dict[Kernels, InvertedBottleneck] = {}  # no submodules: they have no weights

    def forward(self, x: Tensor, kernels: Kernels) -> Tensor:  # type: ignore[override]
        """Run the paths with these kernels, per channel group."""
        return self.chosen(kernels)(x)

    def chosen(self, kernels: Kernels) -> InvertedBottleneck:
        """The plain block of these kernels over the own weights, which it shares; made once."""
        made = self._chosen.get(kernels)
        # Several processes may put batch norms of other types in place.
        if made is None or made.bns[0] is not self.bn_for(len(kernels[0])):
            if len(self._chosen) == _KEPT:
                self._chosen.clear()
            made = self._chosen[kernels] = self._made(kernels)
        return made

    def _made(self, kernels: Kernels) -> InvertedBottleneck:
        pairs = zip(self.groups, kernels, strict=True)
        return InvertedBottleneck(
            kernels,
            self.widths,
            self.residual,
            expand=self.expand,
            groups=(Paths({f"k{k}": paths[f"k{k}"] for k in group}) for paths, group in pairs),  # type: ignore[index]
            after_sum=[self.after_sum_for(len(kernels[0]))],
            squeeze_excite=self.squeeze_excite,
            project=self.project,
            bns=[self.bn_for(len(kernels[0]))],
            drop_path=self.drop_path,
        )

    def outputs(self, x: Tensor, several: Sequence[Kernels]) -> list[Tensor]:
        """What each of some kernels makes of x. The 1x1 expansion runs once for all of them, and so
        does each depthwise path.
        """
        sums = sums_of_paths(self.expand(x), self.widths, self.groups, several)
        outputs = []
        for kernels, y in zip(several, sums, strict=True):
            count = len(kernels[0])
            y = self.project(self.squeeze_excite(self.after_sum_for(count)(y)))
            y = self.bn_for(count)(y)
            outputs.append(x + self.drop_path(y) if self.residual else y)
        return outputs

    def share_kernels(self) -> None:
        """Make each depthwise kernel the centre of the largest one."""
        for paths in self.groups:
            assert isinstance(paths, Paths)
            largest = paths[f"k{max(self.kernels[0])}"]
            for path in paths.values():
                if path is not largest:
                    path.conv = shared(path.conv, largest.conv)  # type: ignore[arg-type]

    def share_with(self, larger: "Branch") -> None:
        """Make all weights the first channels of those of a larger expansion."""
        ours = dict(self.named_modules())
        for name, module in larger.named_modules():
            own = ours.get(name)
            after = name.startswith(("bns.", "after_sum."))
            if isinstance(own, nn.Conv2d | nn.BatchNorm2d) and not after:
                self.set_submodule(name, shared(own, module))

    def bn_for(self, num_paths: int) -> nn.Module:
        """The batch norm after the projection for that many active paths."""
        return _for(num_paths, self.bns)

    def after_sum_for(self, num_paths: int) -> nn.Module:
        """What follows the sum of that many active paths."""
        return _for(num_paths, self.after_sum)


class ChoiceBlock(nn.Module):
    """All candidates of a block: a branch an expansion. sharing: which weights they have in common.
    affine_last: whether the last batch norms of candidates have a weight and a bias.

    Batch norms after the projection, or after the sum of linear paths, are never shared: there is
    one for each number of paths and expansion. Raises BadInput where the hidden channels of
    expansions do not correspond.
    """

    def __init__(
        self,
        block: Block,
        shadow_bn: bool,
        sharing: Sharing = "none",
        affine_last: bool = True,
    ) -> None:
        super().__init__()
        self.candidates = block.candidates
        kernels = (block.kernels,) * block.groups
        num_bn = block.max_paths if shadow_bn and block.searchable else 1
        branches = {
            e: Branch.new(block, e, kernels, num_bn, affine_last=affine_last)
            for e in sorted(block.expansions)
        }
        if branches and sharing in ("kernel", "both"):
            for branch in branches.values():
                branch.share_kernels()
        if branches and sharing in ("expansion", "both"):
            if block.groups > 1:
                raise BadInput(
                    f"{block.name}: expansions of {block.groups} channel groups share no weights; "
                    "sharing must be none or kernel"
                )
            for branch in branches.values():
                if branch is not branches[max(branches)]:
                    branch.share_with(branches[max(branches)])
        self.branches = nn.ModuleDict({f"e{e}": branches[e] for e in block.expansions})
        if any(c.is_identity for c in block.candidates):
            self.identity = identity(block, affine_last)

    def forward(self, x: Tensor, view: View) -> Tensor:
        """Run what the view names; nothing else is executed, so nothing else gets a gradient."""
        if isinstance(view, int):
            return self.chosen(self.candidates[view])(x)
        return mix(view, lambda indices: self.outputs(x, [self.candidates[i] for i in indices]))

    def after(self, stem: nn.Module, x: Tensor, view: View) -> Tensor | None:
        """What the block makes of what a stem makes of images x, where there is one function for
        both; otherwise None.
        """
        if not may_take(x) or not isinstance(view, int):
            return None
        block = self.chosen(self.candidates[view])
        if not isinstance(block, InvertedBottleneck) or is_watched(self):
            return None
        return block.after(stem, x)

    def outputs(self, x: Tensor, candidates: Sequence[Candidate]) -> list[Tensor]:
        """What each of some distinct candidates makes of x; those of one expansion share work."""
        found: dict[Candidate, Tensor] = {}
        for expansion in dict.fromkeys(c.expansion for c in candidates):
            alike = [c for c in candidates if c.expansion == expansion]
            if alike[0].is_identity:
                found[alike[0]] = self.identity(x)
                continue
            branch = self.branches[f"e{expansion}"]
            assert isinstance(branch, Branch)
            found |= zip(alike, branch.outputs(x, [c.kernels for c in alike]), strict=True)
        return [found[c] for c in candidates]

    def chosen(self, candidate: Candidate) -> nn.Module:
        """The plain module of a candidate over the own weights, which it shares."""
        if candidate.is_identity:
            return self.identity
        branch = self.branches[f"e{candidate.expansion}"]
        assert isinstance(branch, Branch)
        return branch.chosen(candidate.kernels)

    def copy_to(self, built: nn.Module, candidate: Candidate) -> None:
        """Copy the candidate's weights to a block that was built as this candidate."""
        built.load_state_dict(plain_state(self.chosen(candidate)))


def sums_of_paths(
    hidden: Tensor,
    widths: list[int],
    groups: nn.ModuleList,
    several: Sequence[Kernels],
) -> list[Tensor]:
    """For each of some kernels the sum of its depthwise paths; each path runs once for all.

    hidden: (n, sum of widths, h, w). groups: the paths `k3`, `k5`, ... of each channel group.
    """
    used = zip(*several, strict=True)  # per channel group
    parts = hidden.split(widths, dim=1)
    outputs = [
        {k: paths[f"k{k}"](part) for k in sorted({k for kernels in group for k in kernels})}  # type: ignore[index]
        for paths, part, group in zip(groups, parts, used, strict=True)
    ]
    sums = []
    for kernels in several:
        active = zip(outputs, kernels, strict=True)
        each = [reduce(torch.add, (found[k] for k in group)) for found, group in active]
        sums.append(torch.cat(each, dim=1) if len(each) > 1 else each[0])
    return sums


def _for(num_paths: int, modules: nn.ModuleList) -> nn.Module:
    return modules[num_paths - 1 if len(modules) > 1 else 0]
