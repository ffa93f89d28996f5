"""Mixtures of the edges that leave one node, in a few large operations: the sums are the same.

All these edges read one activation, so their 1x1 (3x3) convolutions are one with as many times the
channels; the weight of an op becomes the weight of its batch norm, which has none of its own; pools
run once for all edges.
"""

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobilenas.nn.edge_ops import ReLUConvBN, Zero
from mobilenas.nn.views import View, Views

_STATISTICS = ("running_mean", "running_var")
_UNWEIGHTED = (nn.Identity, nn.AvgPool2d, nn.MaxPool2d)


def can_fuse(ops: Any, views: Views, of_nodes: Views) -> bool:
    """Whether the edges of a cell can be mixed so: all are run, with the same several ops and none
    of them shut, and these are single convolutions with a batch norm, pools without, shortcuts and
    zeros. Batch norms that are joint ones of several processes, or average over all batches, stand
    apart. One op an edge is no mixture: with weights of 1 it has the bits of an arch.

    ops: those of an edge. views: of the op of each edge; of_nodes: of the inputs of each node.
    """
    first = views[0]
    if not isinstance(first, Mapping) or len(first) == 1:
        return False
    if not all(_is_open(view, first.keys()) for view in views):
        return False
    if not all(_is_open(view, range(end)) for end, view in enumerate(of_nodes, start=1)):
        return False
    named = [ops[index] for index in first]
    convs = [op for op in named if isinstance(op, ReLUConvBN)]
    others = [op for op in named if isinstance(op, (*_UNWEIGHTED, Zero))]
    plain = all(
        len(op) == 3 and type(op[2]) is nn.BatchNorm2d and op[2].momentum is not None
        for op in convs
    )
    return bool(convs) and plain and len(convs) + len(others) == len(named)


def mix_together(x: Tensor, edges: Sequence[Any], views: Sequence[Any]) -> list[Tensor]:
    """What `mix` makes of each of the edges on one input, of which `can_fuse` holds."""
    ops = {index: [edge[index] for edge in edges] for index in views[0]}
    convs = [index for index in ops if isinstance(ops[index][0], ReLUConvBN)]
    kernel = ops[convs[0]][0][1].weight  # views may be of another precision, or on another device
    weights = {index: torch.stack([v[index] for v in views]).to(kernel) for index in ops}
    for index in ops:
        if isinstance(ops[index][0], Zero):  # its weight has a gradient all the same, which is 0
            weights[convs[0]] = weights[convs[0]] + 0 * weights[index]
    rectified = F.relu(x)
    sums = reduce(torch.add, (_conv_bn(rectified, ops[index], weights[index]) for index in convs))
    outputs = list(sums.chunk(len(edges), dim=1))
    for index in ops:
        if isinstance(ops[index][0], _UNWEIGHTED):
            y = ops[index][0](x)
            added = zip(outputs, weights[index], strict=True)
            outputs = [torch.addcmul(output, y, weight) for output, weight in added]
    return outputs


def _is_open(view: View, candidates: Any) -> bool:
    """Whether exactly these candidates are run, all with a graph."""
    if isinstance(view, int):
        return list(candidates) == [view]
    return view.keys() == set(candidates) and all(w.item() != 0 for w in view.values())


def _conv_bn(x: Tensor, ops: Sequence[Any], weights: Tensor) -> Tensor:
    """The convolution and batch norm of one op of all edges, (n, edges * channels, h, w)."""
    convs, norms = [op[1] for op in ops], [op[2] for op in ops]
    kernels = torch.cat([conv.weight for conv in convs])
    y = F.conv2d(x, kernels, None, convs[0].stride, convs[0].padding)
    # A copy: of a single edge a view would have stride 0, which torch's backward pass reads beyond.
    scale = weights.repeat_interleave(norms[0].num_features)
    training, tracked = norms[0].training, norms[0].track_running_stats
    used = tracked or not training
    statistics = [torch.cat([getattr(n, name) for n in norms]) for name in _STATISTICS if used]
    mean, var = statistics or (None, None)
    y = F.batch_norm(y, mean, var, scale, None, training, norms[0].momentum, norms[0].eps)
    if training and tracked:
        for name, moved in zip(_STATISTICS, statistics, strict=True):
            for norm, own in zip(norms, moved.chunk(len(norms)), strict=True):
                getattr(norm, name).copy_(own)
        for norm in norms:
            norm.num_batches_tracked += 1
    return y
