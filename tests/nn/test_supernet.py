"""The supernet: one arch is run and trained, equal to its plain network and to a plain rewrite."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobilenas.cost import supernet_params
from mobilenas.nn import Network, Supernet, fold_batch_norm
from mobilenas.space import Arch, Block, Candidate, Space, load_space

Change = Callable[..., nn.Module]
Sample = Callable[..., list[Arch]]
S1 = load_space("s1:width=0.125,resolution=8")
LINEAR = load_space("s1:width=0.125,resolution=8,path_activation=after_sum")
BOTH = pytest.mark.parametrize("space", [S1, LINEAR], ids=["each", "after_sum"])


def images(space: Space, n: int = 2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    size = (n, space.spec.in_channels, space.resolution, space.resolution)
    return torch.randn(size, generator=generator)


def s1_arch(*first: str) -> Arch:
    """An S1 arch of these blocks, the rest e3k3."""
    return S1.parse("_".join([*first, *["e3k3"] * (12 - len(first))]))


def names_in_use(arch: Arch, shadow_bn: bool, space: Space) -> set[str]:
    """Parameters of an S1 supernet that this arch uses, from the naming scheme alone."""
    names = {"stem.conv.weight", "conv_head.conv.weight", "classifier.weight", "classifier.bias"}
    norms = {"stem.bn", "conv_head.bn"}
    for number, block in enumerate(arch.blocks):
        branch = f"blocks.{number}.branches.e{block.expansion}"
        names |= {f"{branch}.expand.conv.weight", f"{branch}.project.weight"}
        shadow = block.num_paths - 1 if shadow_bn else 0
        norms.add(f"{branch}.expand.bn")
        if space is LINEAR:
            norms |= {f"{branch}.after_sum.{shadow}.bn", f"{branch}.bns.0"}
        else:
            norms.add(f"{branch}.bns.{shadow}")
        for kernel in block.kernels[0]:
            names.add(f"{branch}.groups.0.k{kernel}.conv.weight")
            norms.add(f"{branch}.groups.0.k{kernel}.bn")
    return names | {f"{norm}.{part}" for norm in norms for part in ("weight", "bias")}


def train_once(supernet: Supernet, optimizer: torch.optim.Optimizer, arch: Arch) -> None:
    optimizer.zero_grad(set_to_none=True)
    supernet(images(supernet.space, 4), arch).square().sum().backward()
    optimizer.step()


@BOTH
@pytest.mark.parametrize("shadow_bn", [True, False])
def test_only_the_weights_of_the_arch_get_gradients_and_move(
    shadow_bn: bool, unlike_fresh: Change, space: Space
) -> None:
    supernet = Supernet(space, shadow_bn=shadow_bn)
    unlike_fresh(supernet).train()
    optimizer = torch.optim.SGD(supernet.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    # The second step must not move what the first has given a momentum.
    for arch in (s1_arch("e3k35", "e6k3579", "e6k9"), s1_arch("e6k7", "e6k357", "e3k59")):
        before = {name: p.detach().clone() for name, p in supernet.named_parameters()}
        train_once(supernet, optimizer, arch)
        used = names_in_use(arch, shadow_bn, space)
        assert used <= before.keys()
        for name, parameter in supernet.named_parameters():
            assert (parameter.grad is not None) == (name in used), name
            assert torch.equal(parameter, before[name]) != (name in used), name


@BOTH
@pytest.mark.parametrize("shadow_bn", [True, False])
def test_only_the_batch_norms_of_the_arch_see_its_statistics(shadow_bn: bool, space: Space) -> None:
    supernet = Supernet(space, shadow_bn=shadow_bn).train()
    arch = s1_arch("e3k35", "e6k3579", "e6k9")
    before = {name: b.clone() for name, b in supernet.named_buffers()}
    supernet(images(space), arch)
    used = names_in_use(arch, shadow_bn, space)
    for name, buffer in supernet.named_buffers():
        norm = name.rpartition(".")[0]
        assert torch.equal(buffer, before[name]) != (f"{norm}.weight" in used), name


@pytest.mark.parametrize("shadow_bn", [True, False])
def test_number_of_shadow_batch_norms(shadow_bn: bool) -> None:
    for space, shadow, single in ((S1, "bns", "after_sum"), (LINEAR, "after_sum", "bns")):
        for block in Supernet(space, shadow_bn=shadow_bn).blocks:
            for branch in block.branches.values():
                assert len(getattr(branch, shadow)) == (4 if shadow_bn else 1)
                assert len(getattr(branch, single)) == 1


@pytest.mark.parametrize("shadow_bn", [True, False])
def test_number_of_parameters(shadow_bn: bool, small_space: Space, mixed_space: Space) -> None:
    for space in (small_space, mixed_space):
        supernet = Supernet(space, shadow_bn=shadow_bn)
        counted = sum(p.numel() for p in supernet.parameters())
        assert counted == supernet_params(space, shadow_bn)


def test_a_fixed_block_of_several_paths_has_one_batch_norm() -> None:
    stages = "[{channels: 16, fixed: e2k35},{channels: 24, blocks: 2, stride: 2}]"
    space = load_space(f"digits:stages={stages}")
    supernet = Supernet(space)
    assert sum(p.numel() for p in supernet.parameters()) == supernet_params(space)
    arch = space.sample(np.random.default_rng(0))
    network = Network(space, arch).load_from(supernet).eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network(images), supernet.eval()(images, arch))


def relative(value: Tensor, reference: Tensor) -> float:
    return float((value - reference).abs().max() / reference.abs().max())


@pytest.mark.parametrize("shadow_bn", [True, False])
def test_network_inherits_the_function_of_its_arch(
    shadow_bn: bool, small_space: Space, unlike_fresh: Change, sample: Sample
) -> None:
    supernet = Supernet(small_space, shadow_bn=shadow_bn)
    unlike_fresh(supernet).eval()
    x = images(small_space)
    with torch.no_grad():
        for arch in sample(small_space, 4):
            network = Network(small_space, arch).load_from(supernet).eval()
            expected = supernet(x, arch)
            assert relative(network(x), expected) < 1e-5
            assert relative(fold_batch_norm(network)(x), expected) < 1e-4


def test_every_candidate_of_a_mixed_space_is_inherited(
    mixed_space: Space, unlike_fresh: Change
) -> None:
    supernet = Supernet(mixed_space)
    unlike_fresh(supernet).eval()
    x = images(mixed_space)
    with torch.no_grad():
        for i in range(max(len(block.candidates) for block in mixed_space.blocks)):
            genes = np.array([i % len(block.candidates) for block in mixed_space.blocks])
            arch = mixed_space.decode(genes)
            network = Network(mixed_space, arch).load_from(supernet).eval()
            assert relative(network(x), supernet(x, arch)) < 1e-5
            assert relative(fold_batch_norm(network)(x), supernet(x, arch)) < 1e-4


def test_network_and_supernet_have_the_same_gradients_in_training(
    unlike_fresh: Change, small_space: Space, sample: Sample
) -> None:
    supernet = Supernet(small_space)
    unlike_fresh(supernet).train()
    (arch,) = sample(small_space, 1)
    network = Network(small_space, arch, drop_rate=0.0).load_from(supernet).train()
    for module, out in (
        (supernet, supernet(images(small_space, 4), arch)),
        (network, network(images(small_space, 4))),
    ):
        assert module.training
        out.square().sum().backward()
    for name in ("stem", "conv_head", "classifier"):
        one, two = (getattr(m, name).parameters() for m in (supernet, network))
        for p, q in zip(one, two, strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-3)


def test_folding_leaves_the_network_alone_and_no_batch_norm_behind(
    small_space: Space, unlike_fresh: Change, sample: Sample
) -> None:
    network = Network(small_space, sample(small_space, 1)[0])
    unlike_fresh(network).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    folded = fold_batch_norm(network)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in folded.modules())
    assert network.training and not folded.training
    after = network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_no_state_is_left_between_archs(
    small_space: Space, unlike_fresh: Change, sample: Sample
) -> None:
    supernet = Supernet(small_space)
    unlike_fresh(supernet).eval()
    x, archs = images(small_space), sample(small_space, 4)
    keys = list(supernet.state_dict())
    with torch.no_grad():
        alone = [supernet(x, arch) for arch in archs]
        for order in ([3, 1, 2, 0], [0, 0, 2, 3]):
            for i in order:
                assert torch.equal(supernet(x, archs[i]), alone[i])
    assert list(supernet.state_dict()) == keys


def test_the_seed_alone_decides_the_weights(small_space: Space) -> None:
    def weights(seed: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return Supernet(small_space, generator=generator).state_dict()

    torch.manual_seed(1)
    first = weights(3)
    torch.manual_seed(2)
    again, other = weights(3), weights(4)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["stem.conv.weight"], other["stem.conv.weight"])


# A plain rewrite of the block of MixPath's code (S1/model_search.py), in functions alone; and of
# the one of linear paths.


def norm(x: Tensor, weights: dict[str, Tensor], name: str, training: bool) -> Tensor:
    w, b = weights[f"{name}.weight"], weights[f"{name}.bias"]
    mean, var = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
    if training:
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    wide = [v[None, :, None, None] for v in (mean, var, w, b)]
    return (x - wide[0]) / torch.sqrt(wide[1] + 1e-5) * wide[2] + wide[3]


def mixpath_block(
    x: Tensor,
    weights: dict[str, Tensor],
    number: int,
    block: Block,
    candidate: Candidate,
    training: bool,
) -> Tensor:
    name = f"blocks.{number}.branches.e{candidate.expansion}"
    kernels = candidate.kernels[0]
    y = F.conv2d(x, weights[f"{name}.expand.conv.weight"])
    y = F.relu6(norm(y, weights, f"{name}.expand.bn", training))
    linear = f"{name}.after_sum.0.bn.weight" in weights
    total = torch.zeros(())
    for k in kernels:
        path = f"{name}.groups.0.k{k}"
        weight = weights[f"{path}.conv.weight"]
        z = F.conv2d(y, weight, None, block.stride, k // 2, groups=len(weight))
        z = norm(z, weights, f"{path}.bn", training)
        total = total + (z if linear else F.relu6(z))
    shadow = len(kernels) - 1
    if linear:
        total = F.relu6(norm(total, weights, f"{name}.after_sum.{shadow}.bn", training))
    z = F.conv2d(total, weights[f"{name}.project.weight"])
    z = norm(z, weights, f"{name}.bns.{0 if linear else shadow}", training)
    return x + z if block.stride == 1 and x.shape[1] == z.shape[1] else z


@pytest.mark.parametrize("path_activation", ["each", "after_sum"])
@pytest.mark.parametrize("training", [False, True])
def test_equals_a_plain_rewrite_of_mixpath(
    training: bool, path_activation: str, unlike_fresh: Change, sample: Sample
) -> None:
    space = load_space(f"s1:width=0.25,resolution=16,path_activation={path_activation}")
    supernet = Supernet(space)
    unlike_fresh(supernet).train(training).double()
    weights = {name: value.clone() for name, value in supernet.state_dict().items()}
    for arch in sample(space, 5):
        x = images(space, 3).double()
        expected = F.conv2d(x, weights["stem.conv.weight"], padding=1)
        expected = F.relu6(norm(expected, weights, "stem.bn", training))
        for i, (block, candidate) in enumerate(zip(space.blocks, arch.blocks, strict=True)):
            expected = mixpath_block(expected, weights, i, block, candidate, training)
        expected = F.conv2d(expected, weights["conv_head.conv.weight"])
        expected = F.relu6(norm(expected, weights, "conv_head.bn", training)).mean((2, 3))
        expected = F.linear(expected, weights["classifier.weight"], weights["classifier.bias"])
        with torch.no_grad():
            assert relative(supernet(x, arch), expected) < 1e-9


def test_channel_groups_take_their_own_kernels(unlike_fresh: Change) -> None:
    """A block of four groups equals four blocks of paths on slices, joined before projection."""
    space = load_space("s3:width=0.5,resolution=32,num_classes=3")
    branch = Supernet(space).blocks[2].branches["e3"]  # 16 to 16 channels, residual
    unlike_fresh(branch).eval()
    x = torch.randn(2, 16, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        hidden = branch.expand(x)
        parts = [
            paths[f"k{k}"](part)
            for paths, part, k in zip(branch.groups, hidden.chunk(4, 1), (9, 3, 5, 3), strict=True)
        ]
        expected = x + branch.bns[0](branch.project(torch.cat(parts, 1)))
        assert torch.equal(branch(x, ((9,), (3,), (5,), (3,))), expected)


@pytest.mark.parametrize("reference", ["s1:width=0.25", "fairnas:width=0.25,num_classes=10"])
def test_initial_weights_have_the_documented_spread(reference: str) -> None:
    supernet = Supernet(load_space(reference), generator=torch.Generator().manual_seed(0))
    for name, part in supernet.named_modules():
        if isinstance(part, nn.Conv2d) and part.weight.numel() > 400:
            fan_out = part.kernel_size[0] ** 2 * part.out_channels / part.groups
            assert part.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.15), name
    bound = supernet.classifier.out_features**-0.5
    assert 0.95 * bound < supernet.classifier.weight.abs().max().item() <= bound
    assert not supernet.classifier.bias.any()


def test_residual_blocks_start_as_the_identity(small_space: Space) -> None:
    supernet = Supernet(small_space)
    for block, choice in zip(small_space.layers, supernet.blocks, strict=True):
        last = torch.cat([n.weight for b in choice.branches.values() for n in b.bns])
        assert torch.equal(last, torch.full_like(last, 0.0 if block.adds_input else 1.0))


def test_a_plain_block_is_made_once_and_follows_its_batch_norms() -> None:
    block = Supernet(load_space("s1:width=0.125,resolution=8")).blocks[0]
    branch = block.branches["e3"]
    made = branch.chosen(((3, 5),))
    assert branch.chosen(((3, 5),)) is made
    assert not list(made.parameters(recurse=False))
    assert "_chosen" not in dict(branch.named_children())
    branch.bns[1] = nn.BatchNorm2d(branch.bns[1].num_features)
    assert branch.chosen(((3, 5),)).bns[0] is branch.bns[1]
    assert branch.chosen(((3, 7),)).bns[0] is branch.bns[1]


def test_few_plain_blocks_are_kept_where_there_are_many() -> None:
    space = load_space("s3:width=0.125,resolution=32")
    supernet = Supernet(space)
    layer = [block.searchable for block in space.layers].index(True)
    candidates = space.layers[layer].candidates
    for candidate in candidates:
        supernet.blocks[layer].chosen(candidate)
    assert len(candidates) > 200
    branches = supernet.blocks[layer].branches.values()
    assert all(0 < len(branch._chosen) <= 32 for branch in branches)
