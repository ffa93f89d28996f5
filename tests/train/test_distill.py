"""Teachers: what they say of the student's images, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mobilenas.base.errors import BadInput
from mobilenas.cost import CostModel
from mobilenas.nn import Network, Supernet
from mobilenas.nn.saved import NetworkInfo, save_network
from mobilenas.space import load_space
from mobilenas.train.distill import Teacher, distillation, load_teacher

STATISTICS = ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
OTHERS = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
TEN = tuple("0123456789")


def test_a_perfect_student_has_no_loss_and_the_gradient_pulls_towards_the_teacher() -> None:
    teacher = torch.randn(6, 10, generator=torch.Generator().manual_seed(0))
    assert distillation(teacher.clone(), teacher, 3.0).item() == pytest.approx(0, abs=1e-6)
    student = torch.zeros(6, 10, requires_grad=True)
    distillation(student, teacher, 1.0).backward()
    # d/dz of KL(p || softmax(z)) is softmax(z) - p.
    expected = (torch.full((6, 10), 0.1) - teacher.softmax(dim=1)) / 6
    torch.testing.assert_close(student.grad, expected)


def test_gradients_keep_their_size_when_the_temperature_rises() -> None:
    """What the factor T^2 is for (Hinton et al. 2015, section 2.1): it tends to a constant."""
    generator = torch.Generator().manual_seed(0)
    teacher, logits = (torch.randn(8, 10, generator=generator) for _ in range(2))
    sizes = []
    for temperature in (20.0, 40.0):
        student = logits.clone().requires_grad_()
        distillation(student, teacher, temperature).backward()
        assert student.grad is not None
        sizes.append(student.grad.norm().item())
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


def test_a_teacher_sees_the_images_as_it_was_trained_on_them() -> None:
    pixels = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))

    def normalised(statistics: tuple[tuple[float, ...], tuple[float, ...]]) -> torch.Tensor:
        mean, std = (torch.tensor(x)[:, None, None] for x in statistics)
        return (pixels - mean) / std

    teacher = Teacher(nn.Identity(), OTHERS, STATISTICS)
    torch.testing.assert_close(teacher(normalised(STATISTICS)), normalised(OTHERS))


def test_the_supernets_teacher_is_its_largest_arch_and_does_not_learn() -> None:
    space = load_space("digits:resolution=16")
    supernet = Supernet(space).eval()
    teacher = load_teacher("supernet", TEN, STATISTICS, 16, supernet)
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    largest = CostModel(space).largest("flops")
    torch.testing.assert_close(teacher(images), supernet(images, largest))
    assert not teacher(images).requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_a_saved_network_and_a_timm_model_teach(tmp_path: Path) -> None:
    import timm

    space = load_space("digits:resolution=16")
    network = Network(space, CostModel(space).largest("flops")).eval()
    info = NetworkInfo(classes=TEN, mean=OTHERS[0], std=OTHERS[1])
    save_network(network, tmp_path / "teacher", info)
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    saved = load_teacher(str(tmp_path / "teacher"), TEN, OTHERS, 16, None)
    torch.testing.assert_close(saved(images), network(images))

    resnet = timm.create_model("resnet10t", num_classes=10).eval()
    torch.save(resnet.state_dict(), tmp_path / "resnet.pth")
    own = (resnet.pretrained_cfg["mean"], resnet.pretrained_cfg["std"])
    teacher = load_teacher(f"timm:resnet10t@{tmp_path / 'resnet.pth'}", TEN, own, 16, None)
    torch.testing.assert_close(teacher(images), resnet(images))


def test_weights_of_the_hub_have_to_be_for_the_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm gives a network with other classes a classifier that knows nothing."""
    import timm

    create = timm.create_model

    def without_download(*arguments: Any, pretrained: bool, **options: Any) -> nn.Module:
        assert pretrained
        return create(*arguments, **options)  # type: ignore[no-any-return]

    monkeypatch.setattr(timm, "create_model", without_download)
    with pytest.raises(BadInput, match=r"timm:resnet10t has 1000 classes, the images have 10"):
        load_teacher("timm:resnet10t", TEN, STATISTICS, 16, None)
    load_teacher("timm:resnet10t", tuple(map(str, range(1000))), STATISTICS, 16, None)


def test_bad_teachers_are_refused(tmp_path: Path) -> None:
    import timm

    space = load_space("digits:resolution=16")
    info = NetworkInfo(classes=tuple("abcdefghij"), mean=OTHERS[0], std=OTHERS[1])
    save_network(Network(space, CostModel(space).largest("flops")), tmp_path / "other", info)
    torch.save(nn.Linear(1, 1), tmp_path / "pickled.pth")
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=10)
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    for name, words in {
        f"timm:resnet10t@{tmp_path / 'pickled.pth'}": ["timm:resnet10t", "weights_only"],
        f"timm:vit_tiny_patch16_224@{tmp_path / 'vit.pth'}": ["height (16)", "224"],
        "supernet": ["--inherit"],
        "timm:resnet1000@": ["timm:resnet1000", "resnet1000"],
        "timm:resnet10t@/no/file": ["/no/file"],
        str(tmp_path / "none"): ["none"],
        str(tmp_path / "other"): ["other classes"],
    }.items():
        with pytest.raises(BadInput) as refused:
            load_teacher(name, TEN, STATISTICS, 16, None)
        message = str(refused.value)
        assert "\n" not in message
        assert all(word in message for word in words), message
