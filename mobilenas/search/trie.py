"""Scores of many archs at once: archs that start alike share what they have in common.

Archs are words over their parts (stem, blocks or cells, head), and a trie holds the prefixes that
occur. The activations behind a prefix, and so its batch norm statistics, do not depend on what
follows; each is computed once, for all the archs that go on from there. The work on an image is
that of the trie's nodes instead of that of every arch; the results are those of one arch at a time.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mobilenas.nn import AnySupernet, fold_batch_norm
from mobilenas.space import AnyArch
from mobilenas.train.calibrate import Batch, fresh_statistics

AT_ONCE = 64  # archs whose weights are in memory together


@dataclass
class Node:
    """A prefix: the module that it ends with, and how it goes on."""

    module: nn.Module
    children: dict[str, "Node"] = field(default_factory=dict)
    arch: int | None = None  # the number of the arch that ends here

    def walk(self, x: Tensor, on_logits: Callable[[int, Tensor], None]) -> None:
        """Run images through all archs; calls on_logits(number of the arch, its logits)."""
        x = self.module(x)
        if self.arch is not None:
            on_logits(self.arch, x)
        for child in self.children.values():
            child.walk(x, on_logits)

    def nodes(self) -> list["Node"]:
        """This node and all below it."""
        return [self, *(node for child in self.children.values() for node in child.nodes())]


def accuracies(
    supernet: AnySupernet,
    archs: Sequence[AnyArch],
    *,
    calibration: Callable[[], Iterable[Tensor]] | None,
    validation: Callable[[], Iterable[Batch]],
) -> list[float]:
    """Top-1 in 0..1 of each arch with the weights of a supernet, which is left as it is.

    calibration: gives the image batches that batch norm statistics are recalibrated on; None keeps
    the supernet's own. validation: gives the (images, labels) batches to score. Both are called
    once per group of archs. archs may hold an arch more than once.
    """
    distinct = sorted(set(archs), key=str)  # neighbours in this order share the longest prefixes
    found: dict[AnyArch, float] = {}
    for start in range(0, len(distinct), AT_ONCE):
        group = distinct[start : start + AT_ONCE]
        root = grow(supernet, group, calibration)
        found |= zip(group, _score(root, len(group), validation()), strict=True)
    return [found[arch] for arch in archs]


@torch.no_grad()
def grow(
    supernet: AnySupernet,
    archs: Sequence[AnyArch],
    calibration: Callable[[], Iterable[Tensor]] | None,
) -> Node:
    """The trie of distinct archs, ready to evaluate: recalibrated as asked, batch norms folded."""
    root = _trie(supernet, archs)
    nodes = root.nodes()
    if calibration is not None:
        with fresh_statistics(nn.ModuleList(node.module for node in nodes)):
            for images in calibration():
                root.walk(images, lambda arch, logits: None)
    for node in nodes:
        node.module = fold_batch_norm(node.module)
    return root


@torch.no_grad()
def _score(root: Node, count: int, batches: Iterable[Batch]) -> list[float]:
    right, total = torch.zeros(count, dtype=torch.int64), 0
    for images, labels in batches:

        def on_logits(arch: int, logits: Tensor, labels: Tensor = labels) -> None:
            right[arch] += (logits.argmax(dim=1) == labels).sum().cpu()

        root.walk(images, on_logits)
        total += len(labels)
    return [float(x) for x in right.double() / total]


def _trie(supernet: AnySupernet, archs: Sequence[AnyArch]) -> Node:
    device = next(supernet.parameters()).device

    def node(make: Callable[[], nn.Module]) -> Node:
        module = make().eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return Node(module)

    root: Node | None = None
    for number, arch in enumerate(archs):
        (_, first), *others = supernet.parts(arch)  # type: ignore[arg-type]  # of its own space
        root = end = root or node(first)
        for key, make in others:
            if key not in end.children:
                end.children[key] = node(make)
            end = end.children[key]
        end.arch = number
    assert root is not None, "there is at least one arch"
    return root
