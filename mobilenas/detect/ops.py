"""Served as the module `mmcv._ext` where mmcv has none: mmcv's compiled ops by torchvision's.

mmcv-lite has every Python file of mmcv.ops but not the compiled module that they call. The
functions here have the names and signatures of that module: outputs are allocated by the caller
and filled in. What is not here imports, and raises BadInput when it is called.

All equal the compiled ops but for `roi_pool`, which rounds the corners of a region to cells first,
as Fast R-CNN has it (Girshick 2015) and the compiled one does not.
"""

from collections.abc import Callable
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from mobilenas.base.errors import BadInput

_tv = torch.ops.torchvision


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the boxes (n, 4) that no better one overlaps by more, best first.

    offset 1: a box ends with its last pixel, so its width is x2 - x1 + 1.
    """
    # torchvision wants one dtype, and has no half precision on CPUs.
    dtype = torch.promote_types(torch.promote_types(boxes.dtype, scores.dtype), torch.float32)
    return torchvision.ops.nms(_ends(boxes.to(dtype), offset), scores.to(dtype), iou_threshold)


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft-NMS (Bodla et al. 2017): overlapping boxes lose score, those below min_score go.

    method: 0 NMS, 1 linear, 2 Gaussian. Fills the first rows of dets (n, 5) with boxes and their
    scores and returns their indices.
    """
    ends, scores = _ends(boxes, offset), scores.clone()
    left = torch.arange(len(boxes))
    kept: list[Tensor] = []
    while len(left):
        best = left[scores[left].argmax()]
        dets[len(kept), :4], dets[len(kept), 4] = boxes[best], scores[best]
        kept.append(best)
        left = left[left != best]
        overlap = torchvision.ops.box_iou(ends[best, None], ends[left])[0]
        if method == 2:
            scores[left] *= torch.exp(-overlap.square() / sigma)
        else:
            hit = overlap >= iou_threshold
            scores[left] *= torch.where(hit, 1 - overlap if method == 1 else 0.0, 1.0)
        left = left[scores[left] >= min_score]
    return torch.stack(kept) if kept else left


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Of dets (n, 5), box and score: each kept one and those it suppresses, best first."""
    order = dets[:, 4].argsort(descending=True, stable=True)
    groups = []
    while len(order):
        suppressed = torchvision.ops.box_iou(dets[order[:1], :4], dets[order, :4])[0]
        group = suppressed >= iou_threshold
        group[0] = True  # also an empty box, whose overlap with itself is not a number
        groups.append(order[group].tolist())
        order = order[~group]
    return groups


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fill output (k, c, aligned_height, aligned_width) for rois (k, 5): image, x1, y1, x2, y2."""
    _check_average(pool_mode)
    output.copy_(
        _tv.roi_align(
            input, rois, spatial_scale, aligned_height, aligned_width, sampling_ratio, aligned
        )
    )


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fill grad_input (n, c, h, w)."""
    _check_average(pool_mode)
    size = (aligned_height, aligned_width, *grad_input.shape)
    grad_input.copy_(
        _tv._roi_align_backward(grad_output, rois, spatial_scale, *size, sampling_ratio, aligned)
    )


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Fill output (k, c, pooled_height, pooled_width), and where in a map each maximum is."""
    pooled, where = _tv.roi_pool(input, rois, spatial_scale, pooled_height, pooled_width)
    output.copy_(pooled)
    argmax.copy_(where)


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Fill grad_input (n, c, h, w)."""
    size = (pooled_height, pooled_width, *grad_input.shape)
    grad_input.copy_(_tv._roi_pool_backward(grad_output, rois, argmax, spatial_scale, *size))


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Fill output (n, classes) for logits input (n, classes) and target (n,); the class after the
    last one is the background.
    """
    output.copy_(_focal_loss(input, target, weight, gamma, alpha))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Fill grad_input (n, classes), the gradient of the sum of the loss."""
    with torch.enable_grad():
        logits = input.detach().requires_grad_()
        loss = _focal_loss(logits, target, weight, gamma, alpha).sum()
    grad_input.copy_(torch.autograd.grad(loss, logits)[0])


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    **shape: int,
) -> None:
    """Fill output (n, c, h, w) of a deformable convolution (Dai et al. 2017).

    offset: (n, 2 * deformable_group * kH * kW, h, w), of each tap its shift down, then right.
    shape: dH, dW (strides), padH, padW, dilationH, dilationW, group, deformable_group.
    """
    output.copy_(_tv.deform_conv2d(input, weight, offset, *_unmodulated(input, weight, shape)))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    columns: Tensor,
    **shape: int,
) -> None:
    """Fill grad_input and grad_offset, of the shapes of input and offset."""
    rest = _unmodulated(input, weight, shape)
    found = _tv._deform_conv2d_backward(grad_output, input, weight, offset, *rest)
    grad_input.copy_(found[0])
    grad_offset.copy_(found[2])


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    columns: Tensor,
    ones: Tensor,
    scale: float,
    **shape: int,
) -> None:
    """Fill grad_weight, times `scale`."""
    rest = _unmodulated(input, grad_weight, shape)
    # The gradient of the weight does not depend on the weight.
    found = _tv._deform_conv2d_backward(grad_output, input, grad_weight, offset, *rest)
    grad_weight.copy_(scale * found[1])


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    **shape: int,
) -> None:
    """Fill output (n, c, h, w) of a modulated deformable convolution (Zhu et al. 2019).

    offset: as of `deform_conv_forward`. mask: (n, deformable_group * kernel_h * kernel_w, h, w), a
    factor for each tap. bias: (c,), of no element without with_bias.
    """
    rest = _modulated(mask, bias, weight, shape)
    output.copy_(_tv.deform_conv2d(input, weight, offset, *rest))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    **shape: int,
) -> None:
    """Fill the gradients, of the shapes of what they belong to."""
    rest = _modulated(mask, bias, weight, shape)
    found = _tv._deform_conv2d_backward(grad_output, input, weight, offset, *rest)
    places = (grad_input, grad_weight, grad_offset, grad_mask, grad_bias)
    for place, gradient in zip(places, found, strict=True):
        if place.numel():  # a bias that is not there has no gradient
            place.copy_(gradient)


def _unmodulated(input: Tensor, weight: Tensor, shape: dict[str, int]) -> tuple[Any, ...]:
    """What torchvision's op takes after the offset: mask, bias, geometry, whether masked."""
    names = ("dH", "dW", "padH", "padW", "dilationH", "dilationW", "group", "deformable_group")
    mask, bias = input.new_zeros(len(input), 1), input.new_zeros(len(weight))
    return mask, bias, *(shape[name] for name in names), False


def _modulated(
    mask: Tensor, bias: Tensor, weight: Tensor, shape: dict[str, int]
) -> tuple[Any, ...]:
    names = ("stride_h", "stride_w", "pad_h", "pad_w", "dilation_h", "dilation_w")
    geometry = [shape[name] for name in (*names, "group", "deformable_group")]
    return mask, bias if bias.numel() else weight.new_zeros(len(weight)), *geometry, True


def _ends(boxes: Tensor, offset: int) -> Tensor:
    return boxes + boxes.new_tensor([0, 0, offset, offset])


def _check_average(pool_mode: int) -> None:
    if pool_mode != 1:
        raise BadInput("roi_align with pool_mode max needs a compiled mmcv")


def _focal_loss(
    input: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float
) -> Tensor:
    if weight.numel():
        raise BadInput("sigmoid_focal_loss with class weights needs a compiled mmcv")
    classes = input.shape[1]
    one_hot = F.one_hot(target, classes + 1)[:, :classes].to(input.dtype)
    return torchvision.ops.sigmoid_focal_loss(input, one_hot, alpha, gamma)


def __getattr__(name: str) -> Callable[..., NoReturn]:
    if name.startswith("__"):
        raise AttributeError(name)

    def missing(*args: object, **kwargs: object) -> NoReturn:
        raise BadInput(
            f"the op {name} needs a compiled mmcv: mobilenas.detect serves only those of "
            "torchvision; docs/detection.md lists the detectors that need no others"
        )

    return missing
