"""Batch norm recalibration and accuracy of a plain network."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mobilenas.data import Batch
from mobilenas.nn import Network, Supernet
from mobilenas.space import Arch


@contextmanager
def fresh_statistics(module: nn.Module) -> Iterator[None]:
    """Within it, batch norms forget their statistics and average those of the batches they see.

    Statistics inherited from a supernet mix those of many archs. Each batch counts the same, so
    batches should have one size. The module ends in eval mode, after an error too.
    """
    module.eval()
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's word for a cumulative average
        norm.train()
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()


@torch.no_grad()
def recalibrate(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace the batch norm statistics by their cumulative average over image batches."""
    with fresh_statistics(network):
        for images in batches:
            network(images)


@torch.no_grad()
def count_right(network: nn.Module, batches: Iterable[Batch]) -> tuple[int, int]:
    """How many images of (images, labels) batches are classified right, of how many; eval mode."""
    network.eval()
    right = total = 0
    for images, labels in batches:
        right += int((network(images).argmax(dim=1) == labels).sum())
        total += len(labels)
    return right, total


def accuracy(network: nn.Module, batches: Iterable[Batch]) -> float:
    """Top-1 accuracy in 0..1 over (images, labels) batches, in eval mode."""
    right, total = count_right(network, batches)
    return right / total


def inherit(supernet: Supernet, arch: Arch) -> Network:
    """The plain network of an arch with the supernet's weights, in eval mode, channels_last."""
    device = next(supernet.parameters()).device
    network = Network(supernet.space, arch).load_from(supernet).eval()
    return network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
