"""What is timed: each row of a space as a module of its own, and whole networks."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mobilenas.cost.rows import block_key, head_key, stem_key
from mobilenas.nn import Network, fold_for_export
from mobilenas.nn.blocks import build, conv_head, stem
from mobilenas.space import Arch, Block, Candidate, Space

_BIAS = 0.1


@dataclass(frozen=True)
class Job:
    """Something to time: a name, how to make the module (eval mode), and the shape of its input."""

    key: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]

    @property
    def example(self) -> Tensor:
        """An input, random but always the same."""
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(0))


class Head(nn.Module):
    """Last convolution, pooling and classifier, as a network ends."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.conv_head = conv_head(space)
        self.classifier = nn.Linear(space.head_channels, space.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Feature map (n, channels, h, w) to logits (n, classes)."""
        return self.classifier(self.conv_head(x).mean(dim=(2, 3)))


def row_jobs(space: Space, batch: int) -> list[Job]:
    """A job for every distinct row of a space, named by its key."""
    last = space.layers[-1]
    jobs = [
        _job(stem_key(space), lambda: stem(space), batch, space.spec.in_channels, space.resolution),
        _job(head_key(space), lambda: Head(space), batch, last.out_channels, last.out_size),
    ]
    seen = {job.key for job in jobs}
    for block in space.layers:
        for candidate in block.candidates:
            key = block_key(block, candidate)
            if key is None or key in seen:
                continue
            seen.add(key)
            jobs.append(_block_job(key, block, candidate, batch))
    return jobs


def network_job(space: Space, arch: Arch, batch: int) -> Job:
    """The job of a whole network, named by its arch."""
    size, channels = space.resolution, space.spec.in_channels
    return _job(str(arch), lambda: Network(space, arch), batch, channels, size)


def _block_job(key: str, block: Block, candidate: Candidate, batch: int) -> Job:
    return _job(key, lambda: build(block, candidate), batch, block.in_channels, block.in_size)


def _job(key: str, make: Callable[[], nn.Module], batch: int, channels: int, size: int) -> Job:
    def prepared() -> nn.Module:
        module, generator = make(), torch.Generator().manual_seed(0)
        for part in module.modules():
            # Fresh modules have zeros, which a runtime could take advantage of: residual blocks as
            # weights of batch norms, and all as biases, which exporters then leave out.
            if isinstance(part, nn.BatchNorm2d) and part.affine:
                nn.init.ones_(part.weight)
                nn.init.normal_(part.bias, std=_BIAS, generator=generator)
            elif isinstance(part, nn.Conv2d | nn.Linear) and part.bias is not None:
                nn.init.normal_(part.bias, std=_BIAS, generator=generator)
        return fold_for_export(module)

    return Job(key, prepared, (batch, channels, size, size))
