"""Peak activation memory of one image at inference, from shape arithmetic.

The rule: the network with folded batch norms runs operator by operator in the order of its ONNX
graph, in float32. A convolution, a pooling, a split or a concatenation writes a new tensor; an
activation, a sum and the gate of squeeze-excite write in place of an input that nobody needs any
more. A tensor is freed after the operator that reads it last. The peak is the largest sum of bytes
of tensors that are alive at once, the input image included, weights and the kernels' own work space
not. Between blocks one tensor is alive, so the peak of a network is the largest one of its layers.
Linear paths are folded into one, or with folded=False run one by one and summed, as others do.
In a backbone the feature maps that a detector takes, those of FEATURE_STRIDE and more, wait to the
end besides.
"""

import os
from itertools import pairwise
from math import prod

from mobilenas.base.errors import BadInput
from mobilenas.cost.counts import squeezed_channels
from mobilenas.space import Block, Candidate, Space
from mobilenas.space.space import split_channels

FLOAT32 = 4
FEATURE_STRIDE = 8


def check_fits(what: str, needed: int) -> None:
    """Raise BadInput for what needs more bytes than the machine has."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > memory:
        raise BadInput(
            f"{what} takes {needed / 2**30:,.0f} GiB or more, this machine has "
            f"{memory / 2**30:,.0f} GiB"
        )


def memory_column(space: Space, folded: bool = True) -> tuple[int, list[list[int]]]:
    """Peak bytes in the stem, the fixed blocks and the head, which every arch has; and in each
    searchable block, built as each of its candidates.
    """
    fixed = [_ends(space)]
    choices = []
    waiting = _waiting(space)
    for block, (features, with_input) in zip(space.layers, waiting, strict=True):
        peaks = [candidate_memory(block, c, folded, features, with_input) for c in block.candidates]
        if block.searchable:
            choices.append(peaks)
        else:
            fixed += peaks
    return max(fixed), choices


def _ends(space: Space) -> int:
    """Peak bytes in the stem and the head."""
    last = space.layers[-1]
    image = space.spec.in_channels * prod(space.image_size)
    stem = space.stem_channels * prod(space.layers[0].in_shape)
    if space.is_backbone:
        return FLOAT32 * (image + stem)
    before, features = (c * prod(last.out_shape) for c in (last.out_channels, space.head_channels))
    pooled, logits = space.head_channels, space.num_classes
    return FLOAT32 * max(image + stem, before + features, features + pooled, pooled + logits)


def _waiting(space: Space) -> list[tuple[int, bool]]:
    """What waits while each layer runs: elements of feature maps, and whether its input does too.

    A feature map is the last of its stride.
    """
    waiting = [(0, False)]
    reduction: int = space.spec.stem.stride
    for block, following in pairwise(space.layers):
        elements, with_input = waiting[-1]
        if with_input:
            elements += block.in_channels * prod(block.in_shape)
        reduction *= block.stride
        is_last = following.stride > 1 and reduction >= FEATURE_STRIDE
        waiting.append((elements, space.is_backbone and is_last))
    return waiting


def candidate_memory(
    block: Block,
    candidate: Candidate,
    folded: bool = True,
    waiting: int = 0,
    input_waits: bool = False,
) -> int:
    """Peak bytes while a block runs; 0 for the identity that is no operator.

    waiting: elements of other tensors that are alive meanwhile. input_waits: whether the block's
    input is needed afterwards.
    """
    before = block.in_channels * prod(block.in_shape)
    after = block.out_channels * prod(block.out_shape)
    if candidate.is_identity:
        return 0 if block.keeps_shape else FLOAT32 * (waiting + before + after)
    if folded:
        candidate = block.folded(candidate)
    hidden = block.in_channels * candidate.expansion
    summed = hidden * prod(block.out_shape)
    # The block's input waits for the residual sum.
    kept = before if block.adds_input or input_waits else 0
    peaks = [kept + summed + after, _paths(block, candidate, hidden, kept)]
    if candidate.expansion > 1:
        peaks.append(before + hidden * prod(block.in_shape))
    squeezed = squeezed_channels(block)
    if squeezed:
        # Beside the features: the pooled ones, or the gate, and the squeezed ones.
        peaks.append(kept + summed + hidden + squeezed)
    return FLOAT32 * (waiting + max(peaks))


def _paths(block: Block, candidate: Candidate, hidden: int, kept: int) -> int:
    """Peak elements in the paths, with the split and the concatenation of channel groups."""
    widths = split_channels(hidden, len(candidate.kernels))
    inputs = [width * prod(block.in_shape) for width in widths]
    outputs = [width * prod(block.out_shape) for width in widths]
    # Without an expansion the paths read the block's input itself.
    beside = kept if candidate.expansion > 1 else 0
    peaks = []
    if len(widths) > 1:
        peaks += [beside + 2 * sum(inputs), kept + 2 * sum(outputs)]
        beside = kept
    for i, kernels in enumerate(candidate.kernels):
        # From the second path on there is the running sum beside a path's output.
        written = outputs[i] * min(len(kernels), 2)
        peaks.append(beside + sum(inputs[i:]) + sum(outputs[:i]) + written)
    return max(peaks)
