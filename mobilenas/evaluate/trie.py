"""Scores of many archs at once: archs that start alike share what they have in common.

Archs are words over their steps (stem, blocks or cells, head), and a trie holds the prefixes that
occur. The activations behind a prefix, and so its batch norm statistics, do not depend on what
follows; each is computed once, for all the archs that go on from there. So is what the next steps
have in common, as the 1x1 expansion and the depthwise paths of a block's candidates. The results
are those of one arch at a time.
"""

import copy
from collections.abc import Callable, Hashable, Iterable, Sequence

import torch
from torch import Tensor, nn

from mobilenas.data import Batch
from mobilenas.nn import AnySupernet
from mobilenas.nn.fold import fold_batch_norm_
from mobilenas.nn.supernet import Step
from mobilenas.space import AnyArch
from mobilenas.train.calibrate import fresh_statistics

AT_ONCE = 32  # archs whose weights are in memory together: of s2 3.5 million an arch


class Node(nn.Module):
    """A prefix of some archs: for each kind of next step the module that takes all steps of this
    kind, and the nodes that they lead to; at the end of an arch its number.
    """

    def __init__(self, arch: int | None = None) -> None:
        super().__init__()
        self.arch = arch
        self.steps = nn.ModuleList()
        self.nodes = nn.ModuleList()

    def walk(self, x: Tensor, on_logits: Callable[[int, Tensor], None]) -> None:
        """Run an activation through the rest of all archs; calls on_logits(arch, its logits).

        Depth first. What siblings share within a block is dropped before the first of them goes on,
        so in memory are the activations of one path, of siblings on it that wait (at most one for
        each arch), and the hidden maps of one block.
        """
        if self.arch is not None:
            on_logits(self.arch, x)
        for steps, nodes in zip(self.steps, self.nodes, strict=True):
            activations = steps(x)
            for node in nodes:  # type: ignore[attr-defined]
                node.walk(activations.pop(0), on_logits)


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
    words = {number: supernet.steps(arch) for number, arch in enumerate(archs)}  # type: ignore[arg-type]
    root = _node(supernet, words, 0)
    _part_from_supernet_(root)
    root.to(memory_format=torch.channels_last).eval()
    if calibration is not None:
        with fresh_statistics(root) as next_batch:
            for images in calibration():
                next_batch()
                root.walk(images, lambda arch, logits: None)
    return fold_batch_norm_(root)


def _part_from_supernet_(root: Node) -> None:
    """Put a copy in place of each module that is the supernet's own: all but the batch norms.

    Of the supernet only what these archs use is copied, and that once, however often it occurs.
    """
    copies: dict[nn.Module, nn.Module] = {}
    for parent in list(root.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d) or any(True for _ in child.children()):
                continue
            if child not in copies:
                copies[child] = copy.deepcopy(child)
            setattr(parent, name, copies[child])


@torch.no_grad()
def _score(root: Node, count: int, batches: Iterable[Batch]) -> list[float]:
    right: dict[int, Tensor] = {}  # on the device, which nothing waits for
    total = 0
    for images, labels in batches:

        def on_logits(arch: int, logits: Tensor, labels: Tensor = labels) -> None:
            right[arch] = (logits.argmax(dim=1) == labels).sum() + right.get(arch, 0)

        root.walk(images, on_logits)
        total += len(labels)
    return [x / total for x in torch.stack([right[arch] for arch in range(count)]).tolist()]


def _node(supernet: AnySupernet, words: dict[int, list[Step]], place: int) -> Node:
    """The trie below a prefix of `place` steps. words: the steps of all archs that start with it,
    by number.
    """
    number, word = next(iter(words.items()))
    if place == len(word):
        return Node(number)
    node = Node()
    kinds: dict[str, dict[Hashable, dict[int, list[Step]]]] = {}
    for number, word in words.items():
        kind, choice = word[place]
        kinds.setdefault(kind, {}).setdefault(choice, {})[number] = word
    for kind, choices in kinds.items():
        node.steps.append(supernet.siblings(place, kind, list(choices)))
        rest = [_node(supernet, below, place + 1) for below in choices.values()]
        node.nodes.append(nn.ModuleList(rest))
    return node
