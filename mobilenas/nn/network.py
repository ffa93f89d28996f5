"""The plain module of one arch, with the verbs of a timm model."""

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mobilenas.nn.blocks import (
    ChoiceBlock,
    ConvBN,
    InvertedBottleneck,
    build,
    conv_head,
    init_weights,
    stem,
)
from mobilenas.nn.supernet import Supernet
from mobilenas.space import Arch, Space


class Network(nn.Module):
    """One arch of a space: images (n, channels, h, w) to logits (n, num_classes).

    feature_info: the last layer of each resolution, as timm lists it (num_chs, reduction, module).
    Raises BadInput when the arch is not of the space.
    """

    def __init__(
        self,
        space: Space,
        arch: Arch,
        *,
        num_classes: int | None = None,
        drop_rate: float | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        space.encode(arch)
        self.space = space
        self.arch = arch
        self.num_classes = space.num_classes if num_classes is None else num_classes
        self.num_features = self.head_hidden_size = space.head_channels
        self.drop_rate = space.spec.head.dropout if drop_rate is None else drop_rate
        self.stem = stem(space)
        self.blocks = nn.ModuleList(
            build(block, candidate)
            for block, candidate in zip(space.layers, space.candidates_of(arch), strict=True)
        )
        self.conv_head = conv_head(space)
        self.dropout = nn.Dropout(self.drop_rate)
        self.classifier = self._linear()
        self.feature_info = _feature_info(space)
        init_weights(self, generator)

    def forward_features(self, x: Tensor) -> Tensor:
        """Feature map (n, num_features, h, w) after the 1x1 head convolution."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.conv_head(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits of a feature map; pre_logits gives the pooled features (n, num_features)."""
        x = self.dropout(x.mean(dim=(2, 3)))
        return x if pre_logits else self.classifier(x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """The last layer: linear, or identity when num_classes is 0."""
        return self.classifier

    def reset_classifier(self, num_classes: int) -> None:
        """A fresh last layer for another number of classes; 0 takes it away."""
        self.num_classes = num_classes
        self.classifier = self._linear()
        init_weights(self.classifier)

    def load_from(self, supernet: Supernet) -> "Network":
        """Inherit the weights and batch norm statistics of a supernet; returns itself."""
        for name in ("stem", "conv_head", "classifier"):
            getattr(self, name).load_state_dict(getattr(supernet, name).state_dict())
        candidates = self.space.candidates_of(self.arch)
        for choice, built, candidate in zip(supernet.blocks, self.blocks, candidates, strict=True):
            assert isinstance(choice, ChoiceBlock)
            choice.copy_to(built, candidate)
        return self

    def _linear(self) -> nn.Module:
        if self.num_classes == 0:
            return nn.Identity()
        return nn.Linear(self.num_features, self.num_classes)


Module = TypeVar("Module", bound=nn.Module)


def fold_batch_norm(module: Module) -> Module:
    """A copy of a network, or of a part of one, in eval mode with every batch norm folded into the
    convolution before it.
    """
    return fold_batch_norm_(copy.deepcopy(module).eval())


def fold_batch_norm_(module: Module) -> Module:
    """`fold_batch_norm` in place, of a module in eval mode. Convolutions are replaced, not changed,
    so others may share them.
    """
    for part in list(module.modules()):
        if isinstance(part, ConvBN):
            part.conv = fuse_conv_bn_eval(part.conv, part.bn)
            part.bn = nn.Identity()  # type: ignore[assignment]
        elif isinstance(part, InvertedBottleneck):
            norm = part.bns[0]
            assert isinstance(norm, nn.BatchNorm2d)
            part.project = fuse_conv_bn_eval(part.project, norm)
            part.bns[0] = nn.Identity()
    return module


def _feature_info(space: Space) -> list[dict[str, object]]:
    rows: dict[int, dict[str, object]] = {}
    reduction: int = space.spec.stem.stride
    for number, block in enumerate(space.layers):
        reduction *= block.stride
        rows[reduction] = {
            "num_chs": block.out_channels,
            "reduction": reduction,
            "module": f"blocks.{number}",
        }
    return list(rows.values())
