"""All weights of a space in one module; the arch is an argument, never hidden state."""

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from mobilenas.nn.blocks import ChoiceBlock, build, conv_head, init_weights, stem
from mobilenas.space import Arch, Block, Candidate, Space

Part = tuple[str, Callable[[], nn.Module]]


class Pool(nn.Module):
    """Global average: feature map (n, channels, h, w) to (n, channels)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


class Supernet(nn.Module):
    """`supernet(x, arch)`: logits (n, classes) of images (n, channels, h, w).

    Only the weights of `arch` are executed: after backward all others have grad None.
    shadow_bn: one batch norm per number of active paths; False shares one (for ablations).
    Dropout is left to stand-alone training, so a forward draws no random numbers.
    """

    def __init__(
        self, space: Space, *, shadow_bn: bool = True, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.space = space
        self.stem = stem(space)
        self.blocks = nn.ModuleList(ChoiceBlock(block, shadow_bn) for block in space.layers)
        self.conv_head = conv_head(space)
        self.classifier = nn.Linear(space.head_channels, space.num_classes)
        init_weights(self, generator)

    def forward(self, x: Tensor, arch: Arch) -> Tensor:
        """Logits of one arch."""
        x = self.stem(x)
        for block, candidate in zip(self.blocks, self.space.candidates_of(arch), strict=True):
            x = block(x, candidate)
        return self.classifier(self.conv_head(x).mean(dim=(2, 3)))

    def parts(self, arch: Arch) -> list[Part]:
        """The plain modules that make up an arch, in order, each with the key that is its name.

        A module is made when it is called for, with copies of the weights; one after another they
        compute what `self(x, arch)` does. Archs that agree in their first keys agree in these
        modules too, so activations up to there can be shared.
        """
        parts: list[Part] = [("stem", lambda: copy.deepcopy(self.stem))]
        candidates = self.space.candidates_of(arch)
        for block, choice, candidate in zip(
            self.space.layers, self.blocks, candidates, strict=True
        ):
            assert isinstance(choice, ChoiceBlock)
            parts.append((str(candidate), partial(_built, block, choice, candidate)))
        return [*parts, ("head", self._head)]

    def _head(self) -> nn.Module:
        return nn.Sequential(copy.deepcopy(self.conv_head), Pool(), copy.deepcopy(self.classifier))


def _built(block: Block, choice: ChoiceBlock, candidate: Candidate) -> nn.Module:
    built = build(block, candidate)
    choice.copy_to(built, candidate)
    return built
