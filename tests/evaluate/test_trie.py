"""Archs evaluated together score as each does alone."""

import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mobilenas.evaluate.trie import accuracies, grow
from mobilenas.nn import CellSupernet, Supernet, fold_batch_norm
from mobilenas.nn.blocks import ConvBN
from mobilenas.nn.siblings import Apart, Siblings
from mobilenas.space import Arch, CellSpace, Space, load_any_space, load_space
from mobilenas.train.calibrate import accuracy, inherit, recalibrate

Change = Callable[..., nn.Module]
Sample = Callable[..., list[Arch]]
SPACES = [
    "macro:width=0.125,resolution=16",
    "s1:width=0.125,resolution=8",
    "s2:width=0.125,resolution=32",
    "s3:width=0.125,resolution=32",
    "s1:width=0.125,resolution=8,squeeze_excite=0.5,path_activation=after_sum",
    "s3:width=0.125,resolution=32,path_activation=after_sum",
]
FAST = [SPACES[1], "mixed"]


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


@pytest.fixture(params=[*SPACES, "mixed"])
def supernet(request: pytest.FixtureRequest, mixed_space: Space, unlike_fresh: Change) -> Supernet:
    supernet = Supernet(mixed_space if request.param == "mixed" else load_space(request.param))
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


@pytest.mark.parametrize("supernet", SPACES[-2:], indirect=True)
def test_linear_paths_are_folded_in_any_company(supernet: Supernet, sample: Sample) -> None:
    archs = alike(supernet.space, sample)
    (images,) = images_of(supernet.space, 1, 6)

    def logits(*company: Arch) -> Tensor:
        found: dict[int, Tensor] = {}
        root = grow(supernet, company, lambda: [images])
        assert not any(isinstance(part, nn.BatchNorm2d) for part in root.modules())
        with torch.no_grad():
            root.walk(images, found.__setitem__)
        return found[0]

    assert torch.equal(logits(archs[0]), logits(*archs))


@torch.no_grad()
def test_cells_score_as_each_does_alone(unlike_fresh: Change) -> None:
    space = load_any_space("nb101:channels=4,resolution=8")
    assert isinstance(space, CellSpace)
    supernet = CellSupernet(space)
    unlike_fresh(supernet)
    cells = space.distinct()[:5]
    generator = torch.Generator().manual_seed(0)
    calibration = [torch.randn(6, 3, 8, 8, generator=generator) for _ in range(2)]
    alone = []
    for cell in cells:
        network = supernet.network(cell)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        recalibrate(network, calibration)
        alone.append(fold_batch_norm(network)(calibration[0]))
    together: dict[int, Tensor] = {}
    grow(supernet, cells, lambda: calibration).walk(calibration[0], together.__setitem__)
    for number, logits in enumerate(alone):
        torch.testing.assert_close(together[number], logits, rtol=1e-6, atol=1e-6)


class Uncopied(nn.Module):
    """Stands where no arch leads to."""

    def __deepcopy__(self, memo: object) -> nn.Module:
        raise AssertionError("copied")


@pytest.mark.parametrize("supernet", FAST, indirect=True)
def test_what_no_arch_uses_is_not_copied(supernet: Supernet, sample: Sample) -> None:
    archs = sample(supernet.space, 2)
    used = {
        f"{number}.{part}"
        for arch in archs
        for number, c in enumerate(supernet.space.candidates_of(arch))
        if not c.is_identity
        for part in [f"e{c.expansion}", *(f"e{c.expansion}.k{k}" for k in c.kernels[0])]
    }
    replaced = 0
    for number, block in enumerate(supernet.blocks):
        for expansion, branch in list(block.branches.items()):  # type: ignore[operator, union-attr]
            if f"{number}.{expansion}" not in used:
                block.branches[expansion] = Uncopied()  # type: ignore[index, union-attr]
                replaced += 1
            elif len(branch.groups) == 1:
                for kernel in branch.groups[0]:
                    if f"{number}.{expansion}.{kernel}" not in used:
                        branch.groups[0][kernel] = Uncopied()
                        replaced += 1
    assert replaced > 5
    grow(supernet, archs, lambda: images_of(supernet.space, 1, 2))


@pytest.mark.parametrize("supernet", FAST, indirect=True)
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


@pytest.mark.parametrize("supernet", FAST, indirect=True)
def test_what_archs_have_in_common_is_computed_once(supernet: Supernet, sample: Sample) -> None:
    """Stem and heads, then behind each prefix: an expansion, a path, the end of a candidate."""
    space = supernet.space
    archs = list(dict.fromkeys(alike(space, sample)))
    convs: set[object] = {"stem"}
    for arch in archs:
        candidates = space.candidates_of(arch)
        convs.add(("head", arch))
        for i, (block, candidate) in enumerate(zip(space.layers, candidates, strict=True)):
            prefix, expansion = tuple(candidates[:i]), candidate.expansion
            if not (candidate.is_identity and block.keeps_shape):
                convs.add((prefix, candidate))
            if expansion > 1:
                convs.add((prefix, expansion))
            for group, kernels in enumerate(candidate.kernels):
                convs |= {(prefix, expansion, group, kernel) for kernel in kernels}
    root = grow(supernet, archs, None)
    calls: list[nn.Module] = []
    for module in root.modules():
        if isinstance(module, ConvBN):
            module.register_forward_hook(lambda module, *_: calls.append(module))
    root.walk(images_of(space, 1, 2)[0], lambda arch, logits: None)
    assert len(calls) == len(convs)
    assert len(set(calls)) == len(calls)


def test_no_activation_outlives_its_use(sample: Sample) -> None:
    """Of the outputs of siblings only those wait whose turn has not come."""
    space = load_space(SPACES[1])
    archs = alike(space, sample)
    root = grow(Supernet(space).eval(), archs, None)
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = 0

    def hook(module: nn.Module, inputs: object, outputs: list[Tensor]) -> None:
        nonlocal most
        most = max(most, len(alive))
        alive.update(outputs)

    for module in root.modules():
        if isinstance(module, Siblings | Apart):
            module.register_forward_hook(hook)
    root.walk(images_of(space, 1, 2)[0], lambda arch, logits: None)
    assert 0 < most < len(space.layers) + len(archs)
    assert not alive


def test_groups_beyond_what_is_held_at_once(
    sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = load_space(SPACES[0])
    supernet, archs = Supernet(space).eval(), alike(space, sample)
    batches = [(images, torch.arange(5)) for images in images_of(space, 2, 5)]
    whole = accuracies(supernet, archs, calibration=None, validation=lambda: batches)
    monkeypatch.setattr("mobilenas.evaluate.trie.AT_ONCE", 2)
    assert accuracies(supernet, archs, calibration=None, validation=lambda: batches) == whole
    assert accuracies(supernet, [], calibration=None, validation=lambda: batches) == []
