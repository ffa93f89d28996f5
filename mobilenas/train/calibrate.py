"""Batch norm recalibration and accuracy of a plain network."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mobilenas.data import Batch
from mobilenas.nn import Network, Supernet
from mobilenas.space import Arch


@contextmanager
def fresh_statistics(module: nn.Module) -> Iterator[Callable[[], None]]:
    """Within it, batch norms forget their statistics and average those of the batches they see;
    what it gives is called before each batch.

    Statistics inherited from a supernet mix those of many archs. Each batch counts the same, so
    batches should have one size. The module ends in eval mode, after an error too.
    """
    module.eval()
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
    batches = 0

    def next_batch() -> None:
        # As torch does where momentum is None, but there each norm waits for its own counter, which
        # lies on the device.
        nonlocal batches
        batches += 1
        for norm in norms:
            norm.momentum = 1 / batches

    try:
        yield next_batch
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()


@torch.no_grad()
def recalibrate(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace the batch norm statistics by their cumulative average over image batches."""
    with fresh_statistics(network) as next_batch:
        for images in batches:
            next_batch()
            network(images)


@torch.no_grad()
def count_right(network: nn.Module, batches: Iterable[Batch]) -> tuple[int, int]:
    """How many images of (images, labels) batches are classified right, of how many; eval mode."""
    network.eval()
    right: Tensor | int = 0  # on the device, which nothing waits for
    total = 0
    for images, labels in batches:
        right = right + (network(images).argmax(dim=1) == labels).sum()
        total += len(labels)
    return int(right), total


def accuracy(network: nn.Module, batches: Iterable[Batch]) -> float:
    """Top-1 accuracy in 0..1 over (images, labels) batches, in eval mode."""
    right, total = count_right(network, batches)
    return right / total


def inherit(supernet: Supernet, arch: Arch) -> Network:
    """The plain network of an arch with the supernet's weights, in eval mode, channels_last."""
    device = next(supernet.parameters()).device
    network = Network(supernet.space, arch).load_from(supernet).eval()
    return network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
