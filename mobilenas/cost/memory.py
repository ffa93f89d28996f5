"""Peak activation memory of one image at inference, from shape arithmetic.

The rule: the network with folded batch norms runs operator by operator in the order of its ONNX
graph, in float32. A convolution, a pooling, a split or a concatenation writes a new tensor; an
activation, a sum and the gate of squeeze-excite write in place of an input that nobody needs any
more. A tensor is freed after the operator that reads it last. The peak is the largest sum of bytes
of tensors that are alive at once, the input image included, weights and the kernels' own work space
not. Between blocks one tensor is alive, so the peak of a network is the largest one of its layers.
Linear paths are folded into one, or with folded=False run one by one and summed, as others do.
"""

from mobilenas.cost.counts import squeezed_channels
from mobilenas.space import Block, Candidate, Space
from mobilenas.space.space import split_channels

FLOAT32 = 4


def fixed_memory(space: Space, folded: bool = True) -> int:
    """Peak bytes in the stem, the fixed blocks and the head: what every arch has."""
    last = space.layers[-1]
    image = space.spec.in_channels * space.resolution**2
    stem = space.stem_channels * space.layers[0].in_size ** 2
    before, features = (c * last.out_size**2 for c in (last.out_channels, space.head_channels))
    pooled, logits = space.head_channels, space.num_classes
    ends = max(image + stem, before + features, features + pooled, pooled + logits)
    fixed = (b for b in space.layers if not b.searchable)
    return max(FLOAT32 * ends, 0, *(candidate_memory(b, b.candidates[0], folded) for b in fixed))


def candidate_memory(block: Block, candidate: Candidate, folded: bool = True) -> int:
    """Peak bytes while a block runs; 0 for the identity that is no operator."""
    before = block.in_channels * block.in_size**2
    after = block.out_channels * block.out_size**2
    if candidate.is_identity:
        return 0 if block.keeps_shape else FLOAT32 * (before + after)
    if folded:
        candidate = block.folded(candidate)
    hidden = block.in_channels * candidate.expansion
    summed = hidden * block.out_size**2
    # The block's input waits for the residual sum.
    kept = before if block.adds_input else 0
    peaks = [kept + summed + after, _paths(block, candidate, hidden, kept)]
    if candidate.expansion > 1:
        peaks.append(before + hidden * block.in_size**2)
    squeezed = squeezed_channels(block)
    if squeezed:
        # Beside the features: the pooled ones, or the gate, and the squeezed ones.
        peaks.append(kept + summed + hidden + squeezed)
    return FLOAT32 * max(peaks)


def _paths(block: Block, candidate: Candidate, hidden: int, kept: int) -> int:
    """Peak elements in the paths, with the split and the concatenation of channel groups."""
    widths = split_channels(hidden, len(candidate.kernels))
    inputs = [width * block.in_size**2 for width in widths]
    outputs = [width * block.out_size**2 for width in widths]
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
