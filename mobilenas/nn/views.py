"""What a supernet runs: of each of its choices one candidate, or a weighted sum of some."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce

import torch
from torch import Tensor

# Of one choice: the index of a candidate, or {index: weight}, each weight a tensor with one value.
View = int | Mapping[int, Tensor]
# One a choice. An arch is the views of its genes.
Views = Sequence[View]


def mix(view: View, run: Callable[[Sequence[int]], Sequence[Tensor]]) -> Tensor:
    """The output of the candidate, or the sum of outputs times weights.

    run: the outputs of the candidates of some indices. What the view does not name is not run, and
    its weights have no gradient. A candidate whose weight is 0 is run without a graph: the weight
    has a gradient, what is behind it has none (a gate of ProxylessNAS, Cai et al. 2019).
    """
    if isinstance(view, int):
        return run([view])[0]
    open_ones = [index for index, weight in view.items() if weight.item() != 0]
    shut = [index for index in view if index not in open_ones]
    outputs = dict(zip(open_ones, run(open_ones), strict=True))
    if shut:
        with torch.no_grad():
            outputs |= zip(shut, run(shut), strict=True)
    return reduce(torch.add, (weight * outputs[index] for index, weight in view.items()))


def without_graph(views: Views) -> list[View]:
    """The same views; no gradient reaches what the weights were computed from."""
    return [
        view
        if isinstance(view, int)
        else {index: weight.detach() for index, weight in view.items()}
        for view in views
    ]


def indices(genes: Iterable[int]) -> list[View]:
    """The views of an arch: of each choice one candidate."""
    return [int(gene) for gene in genes]
