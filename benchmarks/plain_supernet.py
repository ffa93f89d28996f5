"""The MixPath supernet as released: rewritten from a description of it, stock modules only, or the
released modules themselves.
"""

import importlib.util
from pathlib import Path

from torch import Tensor, nn

from mobilenas.space import Arch, Block, Space


def conv_bn_relu6(cin: int, cout: int, kernel: int, stride: int, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(cout), nn.ReLU6())


class PlainBranch(nn.Module):
    """A block at one expansion: expand, depthwise paths, sum, project, batch norm by path count."""

    def __init__(self, block: Block, expansion: int) -> None:
        super().__init__()
        hidden = block.in_channels * expansion
        self.expand = conv_bn_relu6(block.in_channels, hidden, 1, 1)
        self.paths = nn.ModuleDict(
            {str(k): conv_bn_relu6(hidden, hidden, k, block.stride, hidden) for k in block.kernels}
        )
        self.project = nn.Conv2d(hidden, block.out_channels, 1, bias=False)
        self.bns = nn.ModuleList(nn.BatchNorm2d(block.out_channels) for _ in block.kernels)
        self.residual = block.keeps_shape

    def forward(self, x: Tensor, kernels: tuple[int, ...]) -> Tensor:
        hidden = self.expand(x)
        total = self.paths[str(kernels[0])](hidden)
        for k in kernels[1:]:
            total = total + self.paths[str(k)](hidden)
        y = self.bns[len(kernels) - 1](self.project(total))
        return x + y if self.residual else y


class PlainSupernet(nn.Module):
    """The supernet; its modules come in the order of those of `mobilenas.nn.Supernet`."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.stem = conv_bn_relu6(3, space.stem_channels, 3, 1)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({str(e): PlainBranch(block, e) for e in block.expansions})
            for block in space.blocks
        )
        self.head = conv_bn_relu6(space.blocks[-1].out_channels, space.head_channels, 1, 1)
        self.classifier = nn.Linear(space.head_channels, space.num_classes)

    def forward(self, x: Tensor, arch: Arch) -> Tensor:
        x = self.stem(x)
        for branches, candidate in zip(self.blocks, arch.blocks, strict=True):
            x = branches[str(candidate.expansion)](x, candidate.kernels[0])
        return self.classifier(nn.functional.adaptive_avg_pool2d(self.head(x), 1).flatten(1))


class ReleasedSupernet(nn.Module):
    """The released modules, with the weights of a PlainSupernet of `s1` at full width. checkout: of
    https://github.com/xiaomi-automl/MixPath.
    """

    def __init__(self, checkout: Path, plain: PlainSupernet) -> None:
        super().__init__()
        spec = importlib.util.spec_from_file_location("released", checkout / "S1/model_search.py")
        assert spec is not None and spec.loader is not None
        code = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(code)
        self.module = code.SuperNetwork(shadow_bn=True)
        copied: list[tuple[nn.Module, nn.Module]] = [
            (self.module.stem, plain.stem),
            (self.module.last_conv, plain.head),
            (self.module.classifier, plain.classifier),
        ]
        for block, branches in zip(self.module.Inverted_Block, plain.blocks, strict=True):
            for i, branch in enumerate(branches.values()):  # type: ignore[operator]
                paths = nn.ModuleList(branch.paths.values())
                copied += [(block.pw[i], branch.expand), (block.mix_conv[i], paths)]
                copied += [(block.pw_linear[i], branch.project), (block.mix_bn[i], branch.bns)]
        for released, own in copied:
            released.load_state_dict(own.state_dict())

    def forward(self, x: Tensor, arch: Arch) -> Tensor:
        blocks = self.module.Inverted_Block
        choices = [
            {
                "rate": block.expansion_rate.index(candidate.expansion),
                "conv": [block.kernel_list.index(k) for k in candidate.kernels[0]],
            }
            for block, candidate in zip(blocks, arch.blocks, strict=True)
        ]
        logits: Tensor = self.module(x, choices)
        return logits
