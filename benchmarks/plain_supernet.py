"""The MixPath supernet as released, rewritten from a description of it: stock modules only."""

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
