"""The ops served to mmcv, called through mmcv's own wrappers, against plain computations."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

pytest.importorskip("mmdet", reason="needs pip install '.[detect]'")

import mobilenas.detect
from mobilenas.base.errors import BadInput
from mobilenas.detect import ops

assert mobilenas.detect.MobileNASBackbone
from mmcv.ops import (  # noqa: E402
    batched_nms,
    deform_roi_pool,
    nms,
    nms_match,
    roi_align,
    roi_pool,
    sigmoid_focal_loss,
    soft_nms,
)


def some_boxes(n: int = 60, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Boxes that overlap a good deal, and distinct scores."""
    rng = np.random.default_rng(seed)
    corner, size = rng.uniform(0, 40, (n, 2)), rng.uniform(5, 40, (n, 2))
    scores = rng.permutation(n) / n + 0.5 / n
    boxes = np.concatenate([corner, corner + size], axis=1)
    return torch.tensor(boxes, dtype=torch.float32), torch.tensor(scores, dtype=torch.float32)


def overlap(a: np.ndarray, b: np.ndarray, offset: int) -> float:
    """Intersection over union of two boxes."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]) + offset
    inter = float(np.prod(sides.clip(0)))
    return inter / float(np.prod(a[2:] - a[:2] + offset) + np.prod(b[2:] - b[:2] + offset) - inter)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("threshold", [0.2, 0.5])
def test_nms_keeps_what_no_better_box_overlaps(threshold: float, offset: int) -> None:
    boxes, scores = some_boxes()
    kept: list[int] = []
    for i in scores.argsort(descending=True).tolist():
        if all(overlap(boxes[j].numpy(), boxes[i].numpy(), offset) <= threshold for j in kept):
            kept.append(i)
    dets, found = nms(boxes, scores, threshold, offset)
    assert 3 < len(kept) < 50
    assert found.tolist() == kept
    assert torch.equal(dets, torch.cat([boxes, scores[:, None]], 1)[kept])


def test_the_offset_of_nms_matters() -> None:
    boxes = torch.tensor([[0.0, 0, 3, 3], [0, 0, 3, 1]])
    scores = torch.tensor([0.9, 0.8])
    assert len(nms(boxes, scores, 0.4, offset=0)[1]) == 2  # 3 of 9
    assert len(nms(boxes, scores, 0.4, offset=1)[1]) == 1  # 8 of 16


@pytest.mark.parametrize("kinds", [(torch.float16, torch.float32), (torch.float32, torch.float16)])
def test_nms_takes_boxes_and_scores_of_two_precisions(kinds: tuple[torch.dtype, ...]) -> None:
    boxes, scores = some_boxes(20)
    boxes = boxes.half().float()
    _, wanted = nms(boxes, scores, 0.5)
    assert nms(boxes.to(kinds[0]), scores.to(kinds[1]), 0.5)[1].tolist() == wanted.tolist()


def test_nms_of_nothing_is_nothing() -> None:
    dets, kept = nms(torch.zeros(0, 4), torch.zeros(0), 0.5)
    assert dets.shape == (0, 5)
    assert kept.shape == (0,)
    dets, kept = soft_nms(torch.zeros(0, 4), torch.zeros(0), 0.5)
    assert dets.shape == (0, 5)
    assert kept.shape == (0,)


def test_batched_nms_leaves_classes_alone() -> None:
    boxes, scores = some_boxes()
    classes = torch.arange(60) % 3
    kept = [
        torch.where(classes == c)[0][nms(boxes[classes == c], scores[classes == c], 0.3)[1]]
        for c in range(3)
    ]
    _, found = batched_nms(boxes, scores, classes, {"type": "nms", "iou_threshold": 0.3})
    wanted = torch.cat(kept)
    assert found.tolist() == wanted[scores[wanted].argsort(descending=True)].tolist()


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
def test_soft_nms_lowers_the_scores_of_what_overlaps(method: str, offset: int) -> None:
    boxes, scores = some_boxes()
    weights: dict[str, Callable[[float], float]] = {
        "naive": lambda o: 0.0 if o >= 0.3 else 1.0,
        "linear": lambda o: 1 - o if o >= 0.3 else 1.0,
        "gaussian": lambda o: float(np.exp(-o * o / 0.5)),
    }
    left = dict(enumerate(scores.tolist()))
    kept: list[tuple[int, float]] = []
    while left:
        best = max(left, key=lambda i: left[i])
        kept.append((best, left.pop(best)))
        for i in list(left):
            left[i] *= weights[method](overlap(boxes[best].numpy(), boxes[i].numpy(), offset))
            if left[i] < 0.05:
                del left[i]
    dets, found = soft_nms(boxes, scores, 0.3, 0.5, 0.05, method, offset)
    assert found.tolist() == [i for i, _ in kept]
    assert torch.equal(dets[:, :4], boxes[found])
    assert torch.allclose(dets[:, 4], torch.tensor([s for _, s in kept]), atol=1e-6)
    assert torch.equal(scores, some_boxes()[1])  # an input


def test_nms_match_groups_a_box_with_those_it_suppresses() -> None:
    boxes, scores = some_boxes()
    boxes[5] = torch.tensor([3.0, 3, 3, 3])  # empty: overlaps nothing, not even itself
    left = scores.argsort(descending=True).tolist()
    wanted: list[list[int]] = []
    while left:
        first, *rest = left
        hit = [i for i in rest if overlap(boxes[first].numpy(), boxes[i].numpy(), 0) >= 0.4]
        wanted.append([first, *hit])
        left = [i for i in rest if i not in hit]
    groups = nms_match(torch.cat([boxes, scores[:, None]], 1), 0.4)
    assert [group.tolist() for group in groups] == wanted
    assert max(map(len, wanted)) > 3


def regions() -> tuple[Tensor, Tensor]:
    """Maps of two images in double precision, and regions inside them."""
    generator = torch.Generator().manual_seed(1)
    maps = torch.randn(2, 3, 12, 16, generator=generator, dtype=torch.float64)
    rois = [[0, 4, 6, 40, 30], [1, 10.5, 3.2, 55.1, 41.7], [1, 20, 20, 29, 44], [0, 8, 8, 60, 45]]
    return maps, torch.tensor(rois, dtype=torch.float64)


def align_by_sampling(maps: Tensor, rois: Tensor, size: int, scale: float, samples: int) -> Tensor:
    """The mean of samples x samples bilinear samples in each of size x size bins of a region."""
    h, w = maps.shape[2:]
    at = (torch.arange(size * samples, dtype=maps.dtype) + 0.5) / (size * samples)
    out = []
    for roi in rois:
        x1, y1, x2, y2 = roi[1:] * scale
        # In units of pixels whose centres are at halves, as grid_sample has it.
        x, y = x1 + at * (x2 - x1), y1 + at * (y2 - y1)
        grid_y, grid_x = torch.meshgrid(y / h * 2 - 1, x / w * 2 - 1, indexing="ij")
        grid = torch.stack([grid_x, grid_y], dim=-1)[None]
        image = maps[int(roi[0])][None]
        fine = F.grid_sample(image, grid, padding_mode="border", align_corners=False)
        out.append(F.avg_pool2d(fine, samples)[0])
    return torch.stack(out)


def test_roi_align_is_the_mean_of_bilinear_samples() -> None:
    maps, rois = regions()
    mine, theirs = (maps.clone().requires_grad_() for _ in range(2))
    wanted = align_by_sampling(mine, rois, 5, 0.25, 2)
    found = roi_align(theirs, rois, (5, 5), 0.25, 2, "avg", True)
    assert torch.allclose(found, wanted, atol=1e-6)
    grad = torch.randn(found.shape, generator=torch.Generator().manual_seed(2), dtype=found.dtype)
    wanted.backward(grad)
    found.backward(grad)
    assert theirs.grad is not None
    assert mine.grad is not None
    assert torch.allclose(theirs.grad, mine.grad, atol=1e-5)


def pool_by_slices(maps: Tensor, rois: Tensor, size: int, scale: float) -> Tensor:
    """The maximum of each of size x size bins of a region with its corners rounded to cells."""
    h, w = maps.shape[2:]
    out = []
    for roi in rois:
        x1, y1, x2, y2 = (round(v) for v in (roi[1:] * scale).tolist())
        wide, high = max(x2 - x1 + 1, 1) / size, max(y2 - y1 + 1, 1) / size
        for row in range(size):
            top, bottom = y1 + int(np.floor(row * high)), y1 + int(np.ceil((row + 1) * high))
            for column in range(size):
                left = x1 + int(np.floor(column * wide))
                right = x1 + int(np.ceil((column + 1) * wide))
                cells = maps[int(roi[0]), :, top : min(bottom, h), left : min(right, w)]
                out.append(cells.amax(dim=(1, 2)))
    return torch.stack(out).view(len(rois), size, size, -1).permute(0, 3, 1, 2)


def test_roi_pool_is_the_maximum_of_cells() -> None:
    maps, rois = regions()
    mine, theirs = (maps.clone().requires_grad_() for _ in range(2))
    wanted = pool_by_slices(mine, rois, 3, 0.25)
    found = roi_pool(theirs, rois, (3, 3), 0.25)
    assert torch.equal(found, wanted)
    grad = torch.randn(found.shape, generator=torch.Generator().manual_seed(2), dtype=found.dtype)
    wanted.backward(grad)
    found.backward(grad)
    assert theirs.grad is not None
    assert mine.grad is not None
    assert torch.allclose(theirs.grad, mine.grad)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_focal_loss_is_the_formula(reduction: str) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(20, 4, generator=generator, dtype=torch.float64)
    target = torch.randint(0, 5, (20,), generator=generator)  # 4 is the background
    mine, theirs = (logits.clone().requires_grad_() for _ in range(2))
    p = mine.sigmoid()
    is_class = target[:, None] == torch.arange(4)
    # Lin et al. 2017, equation 5
    wanted = torch.where(is_class, -0.25 * (1 - p) ** 2 * p.log(), -0.75 * p**2 * (1 - p).log())
    if reduction != "none":
        wanted = wanted.sum() / (20 if reduction == "mean" else 1)
    found = sigmoid_focal_loss(theirs, target, 2.0, 0.25, None, reduction)
    assert torch.allclose(found, wanted)
    # mmcv's backward takes the gradient of the sum, times a scalar
    wanted.sum().backward()
    found.backward(torch.ones_like(found))
    assert theirs.grad is not None
    assert mine.grad is not None
    assert torch.allclose(theirs.grad, mine.grad)


def test_other_ops_say_their_name() -> None:
    maps, rois = regions()
    with pytest.raises(BadInput, match=r"deform_roi_pool_forward needs a compiled mmcv.*detection"):
        deform_roi_pool(maps, rois, None, (5, 5))
    with pytest.raises(BadInput, match="pool_mode max"):
        roi_align(maps, rois, (5, 5), 0.25, 2, "max", True)
    with pytest.raises(BadInput, match="class weights"):
        sigmoid_focal_loss(
            torch.zeros(2, 3), torch.zeros(2, dtype=torch.long), 2, 0.25, torch.ones(3)
        )
    assert not hasattr(ops, "__wrapped__")
