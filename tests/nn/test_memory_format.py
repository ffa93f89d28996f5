"""Every gradient of an activation has the memory format of the activation, in a whole step."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd.graph import Node

from mobilenas.nn import CellSupernet, Network, Supernet
from mobilenas.space import CellSpace, Space, load_any_space

BATCH = 4


def nodes(output: Tensor) -> list[Node]:
    """The whole graph of a result."""
    found: dict[Node, None] = {}
    waiting = [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found[node] = None
            waiting += [before for before, _ in node.next_functions]
    return list(found)


def logits_of(space: Space | CellSpace, alone: bool) -> Tensor:
    """What a module in channels_last makes of some images."""
    generator = torch.Generator().manual_seed(0)
    arch = space.sample(np.random.default_rng(0))
    x = torch.randn(BATCH, 3, 32, 32, generator=generator)
    x = x.contiguous(memory_format=torch.channels_last)
    if isinstance(space, CellSpace):
        cells = CellSupernet(space, generator=generator).to(memory_format=torch.channels_last)
        return cells(x, arch)
    assert isinstance(space, Space)
    if alone:
        network = Network(space, arch, generator=generator).to(memory_format=torch.channels_last)
        return network(x)
    supernet = Supernet(space, generator=generator).to(memory_format=torch.channels_last)
    return supernet(x, arch)


@pytest.mark.parametrize(
    ("name", "alone"),
    [("s1:width=0.25", False), ("s1:width=0.25", True), ("nb101:channels=16", False)],
)
def test_gradients_of_activations_are_channels_last(name: str, alone: bool) -> None:
    logits = logits_of(load_any_space(name), alone)
    seen = []

    def look(node: Node, gradients: tuple[Tensor | None, ...]) -> None:
        for grad in gradients:
            if grad is not None and grad.dim() == 4 and len(grad) == BATCH and grad.shape[2] > 1:
                seen.append((node.name(), grad.is_contiguous(memory_format=torch.channels_last)))

    graph = nodes(logits)
    for node in graph:
        node.register_prehook(lambda gradients, node=node: look(node, gradients))
    logits.square().sum().backward()
    assert {name for name, kept in seen if not kept} == set()
    assert len(seen) > 25
