"""All weights of a space in one module; the arch is an argument, never hidden state."""

import torch
from torch import Tensor, nn

from mobilenas.nn.blocks import ChoiceBlock, conv_head, init_weights, stem
from mobilenas.space import Arch, Space


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
