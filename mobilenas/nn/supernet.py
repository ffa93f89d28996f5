"""All weights of a space in one module; what of it is run is an argument, never hidden state."""

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mobilenas.nn.blocks import conv_head, init_weights, stem
from mobilenas.nn.choice_block import Branch, ChoiceBlock
from mobilenas.nn.merged import MergedBlock
from mobilenas.nn.pool import Pool, global_average
from mobilenas.nn.sharing import Sharing
from mobilenas.nn.siblings import Apart, Siblings, with_own_norms
from mobilenas.nn.views import Views, indices
from mobilenas.space import IDENTITY, Arch, Space


class Step(NamedTuple):
    """What leads from one activation of an arch to the next; steps of one kind, from the same
    activation, have work in common.
    """

    kind: str
    choice: Hashable = None


class Supernet(nn.Module):
    """`supernet(x, arch)`: logits (n, classes) of images (n, channels, h, w).

    In place of the arch it takes `Views`, one a searchable block, which may mix candidates. Only
    what these name is executed: after backward all other weights have grad None.
    shadow_bn: one batch norm per number of active paths; False shares one (for ablations). sharing:
    which weights the candidates of a block have in common (`nn.sharing`); MixPath as released
    shares none. zero_init_last: see `init_weights`. affine_last: whether the last batch norms of
    candidates have a weight and a bias; where candidates are added up these could rescale them.
    merged: whether searchable blocks are `MergedBlock`s, which have one norm and share nothing.
    Dropout is left to stand-alone training, so a forward draws no random numbers.
    """

    def __init__(
        self,
        space: Space,
        *,
        shadow_bn: bool = True,
        sharing: Sharing = "none",
        zero_init_last: bool = True,
        affine_last: bool = True,
        merged: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.space = space
        self.stem = stem(space)
        self.blocks = nn.ModuleList(
            MergedBlock(block)
            if merged and block.searchable
            else ChoiceBlock(block, shadow_bn, sharing, affine_last)
            for block in space.layers
        )
        self.conv_head = conv_head(space)
        self.classifier = nn.Linear(space.head_channels, space.num_classes)
        init_weights(self, generator, zero_init_last)

    def forward(self, x: Tensor, arch: Arch | Views) -> Tensor:
        """Logits of one arch, or of a mixture."""
        views = indices(self.space.encode(arch)) if isinstance(arch, Arch) else arch
        left = iter(views)
        of_blocks = [next(left) if layer.searchable else 0 for layer in self.space.layers]
        first, *others = self.blocks
        y = first.after(self.stem, x, of_blocks[0])  # type: ignore[operator]
        x = first(self.stem(x), of_blocks[0]) if y is None else y
        for block, view in zip(others, of_blocks[1:], strict=True):
            x = block(x, view)
        return self.classifier(global_average(self.conv_head(x)))

    def steps(self, arch: Arch) -> list[Step]:
        """What an arch is made of, from images to logits.

        Archs that agree in their first steps agree in the activations and, recalibrated, in the
        batch norm statistics up to there.
        """
        blocks = [Step(f"e{c.expansion}", c) for c in self.space.candidates_of(arch)]
        return [Step("stem"), *blocks, Step("head")]

    def siblings(self, place: int, kind: str, choices: Sequence[Any]) -> nn.Module:
        """Distinct steps of a kind, `place` steps from the images, as a module: of an activation
        the list of what each step makes of it. Convolutions are the supernet's own, batch norms
        copies.
        """
        if kind == "stem":
            return Apart([with_own_norms(self.stem)])
        if kind == "head":
            conv_head = with_own_norms(self.conv_head)
            return Apart([nn.Sequential(conv_head, Pool(), self.classifier)])
        block = self.blocks[place - 1]
        assert isinstance(block, ChoiceBlock)
        if choices == [IDENTITY]:
            return Apart([with_own_norms(block.identity)])
        branch = block.branches[kind]
        assert isinstance(branch, Branch)
        if self.space.layers[place - 1].has_linear_paths:
            # Sharing would save at most one block an arch; apart, every block can be folded.
            return Apart(with_own_norms(branch.chosen(choice.kernels)) for choice in choices)
        return Siblings(branch, choices)
