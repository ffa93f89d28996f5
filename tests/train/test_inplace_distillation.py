"""In-place distillation: the divergences by another way, and what a step then adds up."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import TINY_SPACE, untimed
from numpy.typing import NDArray
from supernets import kill_at
from torch import Tensor, nn

from mobilenas.base.errors import BadInput
from mobilenas.nn import Supernet
from mobilenas.space import load_space
from mobilenas.stages.supernet_train import create_supernet_run, train_supernet
from mobilenas.strategies import Sandwich
from mobilenas.strategies.supernet_task import SupernetTask
from mobilenas.train.config import SupernetConfig, load_supernet_config
from mobilenas.train.distill import adaptive_divergence, distillation
from mobilenas.train.recipe import Objective
from mobilenas.train.supernets import SupernetRun, open_supernet_run
from mobilenas.train.trainer import Trainer

SPACE = load_space(TINY_SPACE)
SMALL: dict[str, Any] = {"batch_size": 8, "validate_images": 30, "calibrate_images": 32}
SMALL |= {"limit": 48, "passes": 6, "device": "cpu", "cutout": 0, "strategy": "sandwich"}


def logits(scale: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Of a student and its teacher, in float64."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = scale * torch.randn(2, 40, 5, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


def softmax(row: NDArray[Any]) -> NDArray[Any]:
    e = np.exp(row - row.max())
    return e / e.sum()  # type: ignore[no-any-return]


def one_image(student: NDArray[Any], teacher: NDArray[Any]) -> tuple[float, NDArray[Any]]:
    """The divergence of one image and its gradient by the logits, class by class."""
    q, p = softmax(student), softmax(teacher)
    found = []
    for alpha in (-1, 1):
        value, gradient = 0.0, np.zeros(len(q))
        for c in range(len(q)):
            ratio = p[c] / q[c]
            weight = min(1 / ratio, 5.0) if alpha == -1 else ratio
            value += q[c] * (weight - 1) / 2 if alpha == -1 else p[c] * math.log(ratio)
            for j in range(len(q)):
                gradient[j] -= q[c] * weight * ((c == j) - q[j]) / alpha
        found.append((value, gradient))
    return max(found, key=lambda pair: pair[0])


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_the_adaptive_divergence_is_that_of_a_loop_over_classes(scale: float) -> None:
    student, teacher = logits(scale)
    loss = adaptive_divergence(student, teacher)
    loss.backward()
    rows = [one_image(s, t) for s, t in zip(student.detach().numpy(), teacher.numpy(), strict=True)]
    assert loss.item() == pytest.approx(np.mean([value for value, _ in rows]), rel=1e-10)
    expected = np.stack([gradient for _, gradient in rows]) / len(rows)
    assert student.grad is not None
    np.testing.assert_allclose(student.grad.numpy(), expected, rtol=1e-8, atol=1e-12)


def test_where_nothing_is_clipped_it_is_the_larger_divergence_and_its_derivative() -> None:
    student, teacher = logits(0.3)
    q, p = student.softmax(1), teacher.softmax(1)
    assert (q / p).max() < 5
    over, under = (q * (q / p - 1)).sum(1) / 2, (p * (p / q).log()).sum(1)
    assert 5 < (over > under).sum() < 35  # of 40: both kinds are chosen
    expected = torch.maximum(over, under).mean()
    (gradient,) = torch.autograd.grad(expected, student)
    loss = adaptive_divergence(student, teacher)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, student)[0], gradient)


def test_it_is_finite_for_any_logits_and_nothing_for_equal_ones() -> None:
    student = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]], requires_grad=True)
    for teacher in (student.detach().flip(0), torch.zeros(2, 3)):
        loss = adaptive_divergence(student, teacher)
        (gradient,) = torch.autograd.grad(loss, student)
        assert loss.isfinite()
        assert gradient.isfinite().all()
    same = adaptive_divergence(student, student.detach())
    assert same.item() == 0
    assert torch.autograd.grad(same, student)[0].abs().max() < 1e-6


# --- a step ---------------------------------------------------------------------------------------


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(8, 3, 16, 16, generator=generator), torch.arange(8)


class SameBatch:
    """In place of training batches: every step has the same."""

    def iterate(self, start: int, stop: int) -> Any:
        return (batch() for _ in range(start, stop))


INPLACE: dict[str, Callable[[Tensor, Tensor], Tensor] | None] = {
    "none": None,
    "kl": lambda student, teacher: distillation(student, teacher, 1.0),
    "adaptive": adaptive_divergence,
}


@pytest.mark.parametrize("sharing", ["none", "both"])
@pytest.mark.parametrize("kind", INPLACE)
def test_others_learn_from_the_largest_and_the_largest_from_labels(
    kind: str, sharing: Any, unlike_fresh: Callable[..., nn.Module]
) -> None:
    config = SupernetConfig.model_validate(
        SMALL
        | {"distill_inplace": kind, "clip": None, "label_smoothing": 0.1}
        | {"memory_format": "contiguous"}
    )
    supernet = Supernet(SPACE, sharing=sharing, generator=torch.Generator().manual_seed(0))
    unlike_fresh(supernet)
    alone = copy.deepcopy(supernet).train()
    strategy = Sandwich(SPACE, 0, 2)
    images, labels = batch()

    losses, teacher = [], None
    for arch in strategy.archs(4):
        student = alone(images, arch)
        inplace = INPLACE[kind]
        if teacher is None or inplace is None:
            losses.append(F.cross_entropy(student, labels, label_smoothing=0.1))
            teacher = student.detach()
        else:
            losses.append(inplace(student, teacher))
    sum(losses).backward()  # type: ignore[union-attr]

    trainer = Trainer(supernet, config, SameBatch())  # type: ignore[arg-type]
    task = SupernetTask(strategy, config, Objective(config, 10, 0, None), num_images=48)
    task.step(trainer, 4)
    found = trainer._unread[0][2][:-1]
    torch.testing.assert_close(found, torch.stack(losses).detach(), rtol=1e-4, atol=1e-5)
    others = dict(alone.named_parameters())
    for name, parameter in supernet.named_parameters():
        expected = others[name].grad
        assert (parameter.grad is None) == (expected is None), name
        if expected is not None:
            assert parameter.grad is not None
            size = expected.abs().max()
            assert (parameter.grad - expected).abs().max() <= 1e-3 * size + 1e-6, name


# --- runs -----------------------------------------------------------------------------------------


def create(folder: Path, **changes: Any) -> SupernetRun:
    config = SupernetConfig.model_validate(SMALL | changes)
    return create_supernet_run(folder, SPACE, "digits", 3, config)


@pytest.mark.parametrize(
    "changes",
    [
        {"distill_inplace": "adaptive", "sharing": "both", "sandwich_random": 1},
        {"distill_inplace": "kl", "mixup": 0.2, "ema_decay": 0.9},
    ],
)
def test_a_killed_sandwich_continues_to_the_same_bytes(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = create(tmp_path / "whole", **changes)
    killed = create(tmp_path / "killed", **changes, checkpoint_seconds=0)
    train_supernet(whole)
    kill_at(monkeypatch, killed, 5)
    train_supernet(open_supernet_run(killed.folder.path))
    left, right = (
        {k: x for k, x in untimed(run.folder.path).items() if k not in ("run.json", "timing.json")}
        for run in (whole, killed)
    )
    assert left == right


@pytest.mark.parametrize("strategy", ["fair", "uniform"])
def test_a_step_without_the_largest_arch_cannot_distill(strategy: str) -> None:
    words = rf"distill_inplace kl .*largest arch.* strategy {strategy} must be sandwich"
    with pytest.raises(BadInput, match=words):
        load_supernet_config("default", [f"strategy={strategy}", "distill_inplace=kl"])
