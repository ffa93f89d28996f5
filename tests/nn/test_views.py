"""What a supernet runs of its candidates: exactness, and that the rest is left alone."""

from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mobilenas.nn import Supernet
from mobilenas.nn.blocks import ConvBN
from mobilenas.nn.choice_block import ChoiceBlock
from mobilenas.nn.views import View, indices, mix, without_graph
from mobilenas.space import Space, load_space

SEVERAL_PATHS = [
    "s1:width=0.25,resolution=16,candidates.max_paths=2",
    "s1:width=0.25,resolution=16,path_activation=after_sum",
]


def made(space: Space, **options: bool) -> Supernet:
    return Supernet(space, generator=torch.Generator().manual_seed(0), **options)


def images(space: Space) -> Tensor:
    size = (space.spec.in_channels, space.resolution, space.resolution)
    return torch.randn(4, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("weighted", [False, True], ids=["indices", "weights of 1"])
def test_the_views_of_genes_are_the_arch_to_the_bit(small_space: Space, weighted: bool) -> None:
    arch = small_space.sample(np.random.default_rng(0))
    views: list[View] = indices(small_space.encode(arch))
    if weighted:
        views = [{int(view): torch.ones(())} for view in views]  # type: ignore[call-overload]
    x, found = images(small_space), []
    for what in (arch, views):
        supernet = made(small_space)
        logits = supernet(x, what)
        logits.square().sum().backward()
        gradients = {name: p.grad for name, p in supernet.named_parameters()}
        found.append((logits, gradients, supernet.state_dict()))
    (logits, gradients, state), (again, mixed, after) = found
    assert torch.equal(logits, again)
    assert any(g is None for g in gradients.values())  # of what is not in the arch
    for name, gradient in gradients.items():
        assert (gradient is None) == (mixed[name] is None), name
        assert gradient is None or torch.equal(gradient, mixed[name]), name
    assert all(torch.equal(value, after[name]) for name, value in state.items())


@pytest.mark.parametrize("reference", [*SEVERAL_PATHS, "proxyless:width=0.25,resolution=32"])
def test_shared_work_changes_nothing(reference: str) -> None:
    space = load_space(reference)
    for block in (2, len(space.blocks) - 1):
        choice = made(space).double().blocks[space.layers.index(space.blocks[block])]
        assert isinstance(choice, ChoiceBlock)
        shape = space.blocks[block]
        x = torch.randn(3, shape.in_channels, *shape.in_shape).double().requires_grad_()
        outputs = choice.outputs(x, shape.candidates)
        for candidate, output in zip(shape.candidates, outputs, strict=True):
            torch.testing.assert_close(output, choice.chosen(candidate)(x), rtol=0, atol=1e-12)
        weights = torch.rand(len(outputs)).double().requires_grad_()
        y = choice(x, dict(enumerate(weights.unbind())))
        toward = torch.randn_like(y)
        (gradient,) = torch.autograd.grad((y * toward).sum(), weights)
        inner = [(toward * output).sum() for output in outputs]  # d L / d p_k = <d L / d y, o_k>
        torch.testing.assert_close(gradient, torch.stack(inner), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("reference", SEVERAL_PATHS)
def test_each_convolution_runs_once(reference: str) -> None:
    space = load_space(reference)
    supernet = made(space)
    runs: Counter[str] = Counter()
    for name, module in supernet.named_modules():
        if isinstance(module, ConvBN):
            module.register_forward_hook(lambda *_, name=name: runs.update([name]))
    views = [{i: torch.ones(()) for i in range(len(b.candidates))} for b in space.blocks]
    supernet(images(space), views)
    assert set(runs.values()) == {1}
    assert len(runs) == sum(isinstance(m, ConvBN) for m in supernet.modules())


def test_only_what_is_named_runs_and_learns() -> None:
    space = load_space("s1:width=0.25,resolution=16,candidates.max_paths=2")
    supernet = made(space)
    views: list[View] = [0] * len(space.blocks)
    wanted = [1, 5]
    views[3] = {i: torch.tensor(0.5) for i in wanted}
    supernet(images(space), views).sum().backward()
    block = supernet.blocks[3]
    used = {k for i in wanted for k in space.blocks[3].candidates[i].kernels[0]}
    expansions = {space.blocks[3].candidates[i].expansion for i in wanted}
    for name, p in block.named_parameters():
        if ".groups." in name:
            e, kernel = name.split(".")[1], name.split(".k")[1].split(".")[0]
            there = int(e[1:]) in expansions and int(kernel) in used
            assert (p.grad is not None) == there, name


def test_a_weight_of_0_has_a_gradient_and_what_is_behind_it_none() -> None:
    layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(3))
    x = torch.randn(2, 3)
    gates = torch.tensor([1.0, 0.0]).requires_grad_()
    y = mix({0: gates[0], 2: gates[1]}, lambda ids: [layers[i](x) for i in ids])
    assert torch.equal(y, layers[0](x))
    y.sum().backward()
    assert gates.grad is not None
    torch.testing.assert_close(gates.grad[1], layers[2](x).sum())
    assert layers[0].weight.grad is not None
    assert layers[1].weight.grad is None and layers[2].weight.grad is None


def test_weights_without_a_graph_keep_their_values() -> None:
    weight = torch.tensor(0.3, requires_grad=True)
    views = without_graph([2, {1: weight * 2}])
    assert views[0] == 2
    assert isinstance(views[1], dict)
    assert views[1][1].item() == (weight * 2).item() and not views[1][1].requires_grad


@pytest.mark.parametrize("affine_last", [True, False])
def test_candidates_of_a_residual_block_differ_only_without_an_affine_last_norm(
    affine_last: bool,
) -> None:
    space = load_space("macro:width=0.25,resolution=16")
    supernet = made(space, affine_last=affine_last)
    views: list[View] = [1] * len(space.blocks)
    residual = next(i for i, block in enumerate(space.blocks) if block.adds_input)
    weights = torch.full((2,), 0.5, requires_grad=True)
    views[residual] = {1: weights[0], 2: weights[1]}
    supernet(images(space), views).square().sum().backward()
    assert weights.grad is not None
    # Where blocks start as the identity, no gradient tells one candidate from the other.
    assert (weights.grad[0] == weights.grad[1]).item() == affine_last


@pytest.mark.parametrize("affine_last", [True, False])
def test_the_parameters_of_residual_blocks_learn_only_without_an_affine_last_norm(
    affine_last: bool,
) -> None:
    space = load_space("macro:width=0.25,resolution=16")
    supernet = made(space, affine_last=affine_last).double()
    rng = np.random.default_rng(0)
    alphas = [
        torch.tensor(rng.normal(size=len(b.candidates)), requires_grad=True) for b in space.blocks
    ]
    views = [dict(enumerate(alpha.softmax(0).unbind())) for alpha in alphas]
    logits = supernet(images(space).double(), views)
    loss = nn.functional.cross_entropy(logits, torch.arange(4) % space.num_classes)
    slopes = [float(each.abs().max()) for each in torch.autograd.grad(loss, alphas)]
    pairs = list(zip(slopes, space.blocks, strict=True))
    residual = [slope for slope, block in pairs if block.adds_input]
    assert min(slope for slope, block in pairs if not block.adds_input) > 1e-5
    assert max(residual) < 1e-12 if affine_last else min(residual) > 1e-5


def test_no_candidate_can_rescale_itself_without_an_affine_last_norm() -> None:
    supernet = made(load_space("macro:width=0.25,resolution=16"), affine_last=False)
    changing = 0
    for block in supernet.blocks:
        assert isinstance(block, ChoiceBlock)
        for candidate in block.candidates:
            norms = [x for x in block.chosen(candidate).modules() if isinstance(x, nn.BatchNorm2d)]
            assert all(not norm.affine for norm in norms[-1:])
            changing += candidate.is_identity and len(norms)
    assert changing == 3  # 1x1 convolutions of candidates that are the identity elsewhere


def test_subsets_of_equal_marginals_differ_by_their_own_norms_only() -> None:
    space = load_space("s1:width=0.25,resolution=16,candidates.max_paths=2")
    block = space.blocks[2]
    choice = made(space).double().blocks[space.layers.index(block)]
    assert isinstance(choice, ChoiceBlock)
    x = torch.randn(8, block.in_channels, *block.in_shape).double()
    # Each path is there half of the time, in both.
    halves = [("e3k35", "e3k7"), ("e3k3", "e3k57")]
    branch = choice.branches["e3"]
    paths, hidden = branch.groups[0], branch.expand(x)  # type: ignore[index,operator,union-attr]
    names = [str(candidate) for candidate in choice.candidates]
    sums, outputs = [], []
    for pair in halves:
        kernels = [kernel for name in pair for kernel in name.removeprefix("e3k")]
        sums.append(torch.stack([paths[f"k{kernel}"](hidden) for kernel in kernels]).sum(0) / 2)  # type: ignore[index,operator]
        outputs.append(choice(x, {names.index(name): torch.tensor(0.5).double() for name in pair}))
    assert (sums[0] - sums[1]).abs().max() < 1e-12  # what a norm behind the sum would see
    assert (outputs[0] - outputs[1]).norm() > 0.01 * outputs[0].norm()
