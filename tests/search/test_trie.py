"""Archs evaluated together score as each does alone."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mobilenas.nn import Supernet, fold_batch_norm
from mobilenas.search.trie import accuracies, grow
from mobilenas.space import Arch, Space, load_space
from mobilenas.train.calibrate import accuracy, inherit, recalibrate

Change = Callable[..., nn.Module]
Sample = Callable[..., list[Arch]]
SPACES = [
    "macro:width=0.125,resolution=16",
    "s1:width=0.125,resolution=8",
    "s2:width=0.125,resolution=32",
    "s3:width=0.25,resolution=32",
]


def alike(space: Space, sample: Sample) -> list[Arch]:
    """Distinct archs that share prefixes of several lengths, not in order."""
    first, second, third = sample(space, 3)
    mixed = [
        Arch(first.blocks[:i] + other.blocks[i:])
        for i in (1, len(first) // 2, len(first) - 1)
        for other in (second, third)
    ]
    return list(dict.fromkeys([third, *mixed, first, second]))


def images_of(space: Space, count: int, size: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(count)
    shape = (size, space.spec.in_channels, space.resolution, space.resolution)
    return [torch.randn(shape, generator=generator) * (1 + i) for i in range(count)]


@pytest.fixture(params=SPACES)
def supernet(request: pytest.FixtureRequest, unlike_fresh: Change) -> Supernet:
    supernet = Supernet(load_space(request.param))
    unlike_fresh(supernet)
    return supernet.eval()


@pytest.mark.parametrize("recalibrated", [True, False])
def test_logits_and_accuracies_are_those_of_one_arch_at_a_time(
    supernet: Supernet, sample: Sample, recalibrated: bool
) -> None:
    space = supernet.space
    archs = alike(space, sample)
    calibration, images = images_of(space, 3, 6), images_of(space, 2, 7)
    labels = [torch.arange(7) % space.num_classes for _ in images]
    alone, scores = [], []
    for arch in archs:
        network = inherit(supernet, arch)
        if recalibrated:
            recalibrate(network, calibration)
        folded = fold_batch_norm(network)
        scores.append(accuracy(folded, zip(images, labels, strict=True)))
        with torch.no_grad():
            alone.append(folded(images[0]))

    def batches() -> list[Tensor]:
        return calibration

    together: dict[int, Tensor] = {}
    root = grow(supernet, archs, batches if recalibrated else None)
    with torch.no_grad():
        root.walk(images[0], together.__setitem__)
    for number in range(len(archs)):
        torch.testing.assert_close(together[number], alone[number], rtol=1e-6, atol=1e-6)
    assert [*scores, scores[0]] == accuracies(
        supernet,
        [*archs, archs[0]],
        calibration=batches if recalibrated else None,
        validation=lambda: zip(images, labels, strict=True),
    )


def test_parts_one_after_another_are_the_arch(supernet: Supernet, sample: Sample) -> None:
    (images,) = images_of(supernet.space, 1, 3)
    for arch in sample(supernet.space, 4):
        x = images
        with torch.no_grad():
            for _, make in supernet.parts(arch):
                x = make().eval()(x)
            torch.testing.assert_close(x, supernet(images, arch), rtol=1e-6, atol=1e-6)


def test_the_supernet_is_left_as_it_is(supernet: Supernet, sample: Sample) -> None:
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    images = images_of(supernet.space, 2, 4)
    accuracies(
        supernet,
        sample(supernet.space, 2),
        calibration=lambda: images,
        validation=lambda: [(images[0], torch.zeros(4, dtype=torch.int64))],
    )
    assert all(torch.equal(value, before[name]) for name, value in supernet.state_dict().items())
    assert not any(part.training for part in supernet.modules())


def test_what_archs_have_in_common_is_computed_once(sample: Sample) -> None:
    space = load_space(SPACES[0])
    archs = alike(space, sample)
    root = grow(Supernet(space).eval(), archs, None)
    nodes = root.nodes()
    prefixes = {arch.blocks[:i] for arch in archs for i in range(1, len(arch) + 1)}
    assert len(nodes) == 1 + len(prefixes) + len(archs)
    calls: list[nn.Module] = []
    for node in nodes:
        node.module.register_forward_hook(lambda module, *_: calls.append(module))
    root.walk(images_of(space, 1, 2)[0], lambda arch, logits: None)
    assert sorted(map(id, calls)) == sorted(id(node.module) for node in nodes)


def test_groups_beyond_what_is_held_at_once(
    sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = load_space(SPACES[0])
    supernet, archs = Supernet(space).eval(), alike(space, sample)
    batches = [(images, torch.arange(5)) for images in images_of(space, 2, 5)]
    whole = accuracies(supernet, archs, calibration=None, validation=lambda: batches)
    monkeypatch.setattr("mobilenas.search.trie.AT_ONCE", 2)
    assert accuracies(supernet, archs, calibration=None, validation=lambda: batches) == whole
    assert accuracies(supernet, [], calibration=None, validation=lambda: batches) == []
