"""Linear paths fold into one convolution a channel group, which computes the same."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mobilenas.nn import Network, Supernet, fold_batch_norm
from mobilenas.nn.blocks import build, init_weights
from mobilenas.space import Arch, Block, Candidate, load_space, space_from_dict
from mobilenas.train.calibrate import inherit, recalibrate

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
KERNELS = (1, 3, 5, 7, 9)


@st.composite
def candidates(draw: st.DrawFn) -> Candidate:
    count = draw(st.integers(1, 4))
    group = st.lists(st.sampled_from(KERNELS), min_size=count, max_size=count, unique=True)
    groups = draw(st.lists(group.map(sorted).map(tuple), min_size=1, max_size=3))
    return Candidate(draw(st.sampled_from([1, 3])), tuple(groups))


def make_block(candidate: Candidate, stride: int, residual: bool, squeeze_excite: float) -> Block:
    """Of 7 channels, so that channel groups have unequal widths."""
    return Block(
        name="block",
        in_channels=7,
        out_channels=7 if residual else 5,
        stride=stride,
        in_size=8,
        candidates=(candidate,),
        searchable=True,
        activation="hard_swish",
        squeeze_excite=squeeze_excite,
        path_activation="after_sum",
    )


def randomise(module: nn.Module, generator: torch.Generator) -> None:
    """Batch norms that do something, with weights of both signs where they have any."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            if part.affine:
                nn.init.normal_(part.weight, 0, 1, generator=generator)
                nn.init.normal_(part.bias, 0, 0.5, generator=generator)
            assert part.running_mean is not None and part.running_var is not None
            nn.init.normal_(part.running_mean, 0, 0.5, generator=generator)
            nn.init.uniform_(part.running_var, 0.5, 2, generator=generator)


def without_affine(module: nn.Module) -> nn.Module:
    """The module with batch norms that have neither weight nor bias, as searches use them."""
    for part in list(module.modules()):
        for name, child in part.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(part, name, nn.BatchNorm2d(child.num_features, child.eps, affine=False))
    return module


def relative(value: Tensor, reference: Tensor) -> float:
    return float((value - reference).abs().max() / reference.abs().max())


def depthwise(module: nn.Module) -> list[nn.Conv2d]:
    convs = [part for part in module.modules() if isinstance(part, nn.Conv2d)]
    return [conv for conv in convs if conv.groups == conv.in_channels > 1]


@pytest.mark.parametrize("path_activation", ["each", "after_sum"])
@torch.no_grad()
def test_batch_norms_without_affine_start_and_fold(
    path_activation: str, sample: Callable[..., list[Arch]]
) -> None:
    space = load_space(f"s1:width=0.25,resolution=16,path_activation={path_activation}")
    network = without_affine(Network(space, sample(space, 1)[0])).eval()
    generator = torch.Generator().manual_seed(0)
    init_weights(network, generator)
    randomise(network, generator)
    folded = fold_batch_norm(network.double())
    images = torch.randn(2, 3, 16, 16, generator=generator, dtype=torch.float64)
    assert relative(folded(images), network(images)) < TOLERANCE[torch.float64]
    assert not any(isinstance(part, nn.BatchNorm2d) for part in folded.modules())


@settings(deadline=None, max_examples=40)
@given(
    candidates(),
    st.sampled_from([1, 2]),
    st.booleans(),
    st.sampled_from([0.0, 0.5]),
    st.sampled_from([torch.float32, torch.float64]),
    st.integers(0, 2**32 - 1),
)
def test_a_folded_block_computes_the_same_with_one_convolution_a_group(
    candidate: Candidate,
    stride: int,
    residual: bool,
    squeeze_excite: float,
    dtype: torch.dtype,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    block = make_block(candidate, stride, residual, squeeze_excite)
    module = build(block, candidate).to(dtype).eval()
    randomise(module, generator)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    folded = fold_batch_norm(module)
    x = torch.randn(2, 7, 8, 8, generator=generator, dtype=dtype)
    with torch.no_grad():
        assert relative(folded(x), module(x)) < TOLERANCE[dtype]
    convs = depthwise(folded)
    assert [conv.kernel_size[0] for conv in convs] == [max(group) for group in candidate.kernels]
    assert not any(isinstance(part, nn.BatchNorm2d) for part in folded.modules())
    assert folded.kernels == block.folded(candidate).kernels
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_batch_norms_without_weights_are_folded_too() -> None:
    generator = torch.Generator().manual_seed(0)
    candidate = Candidate(3, ((3, 5),))
    block = build(make_block(candidate, 1, True, 0.0), candidate)
    for part in list(block.modules()):
        for name, norm in part.named_children():
            if isinstance(norm, nn.BatchNorm2d):
                plain = nn.BatchNorm2d(norm.num_features, affine=False)
                setattr(part, name, plain)
                nn.init.normal_(plain.running_mean, 0, 0.5, generator=generator)  # type: ignore[arg-type]
                nn.init.uniform_(plain.running_var, 0.5, 2, generator=generator)  # type: ignore[arg-type]
    init_weights(block, generator)  # which has no weight to set to 0 here
    x = torch.randn(2, 7, 8, 8, generator=generator)
    with torch.no_grad():
        assert relative(fold_batch_norm(block)(x), block.eval()(x)) < TOLERANCE[torch.float32]


def test_a_folded_block_is_the_folded_block_of_the_largest_kernel() -> None:
    """Layer for layer, so that what is known of its speed holds for both."""
    data = load_space("s3:width=0.25,squeeze_excite=0.5").to_dict()
    each, linear = (space_from_dict(data | {"path_activation": w}) for w in ("each", "after_sum"))

    def layers(block: Block, candidate: Candidate) -> list[str]:
        module = fold_batch_norm(build(block, candidate))
        leaves = (part for part in module.modules() if not any(True for _ in part.children()))
        return [repr(leaf) for leaf in leaves if not isinstance(leaf, nn.Identity)]

    for one, other in zip(linear.blocks, each.blocks, strict=True):
        many = Candidate(3, ((3, 5), (5, 7), (3, 9), (3, 5)))
        assert layers(one, many) == layers(other, one.folded(many))


@pytest.mark.parametrize("shadow_bn", [True, False])
@torch.no_grad()
def test_a_recalibrated_arch_of_a_supernet_folds(
    shadow_bn: bool, unlike_fresh: Callable[..., nn.Module], sample: Callable[..., list[Arch]]
) -> None:
    space = load_space("s1:width=0.25,resolution=16,squeeze_excite=0.25,path_activation=after_sum")
    supernet = Supernet(space, shadow_bn=shadow_bn)
    unlike_fresh(supernet).eval()
    generator = torch.Generator().manual_seed(0)
    shape = (3, 8, 3, 16, 16)
    batches = list(torch.randn(shape, generator=generator, dtype=torch.float64))
    for arch in sample(space, 3):
        network = inherit(supernet, arch).double()
        recalibrate(network, batches)
        folded = fold_batch_norm(network)
        assert len(depthwise(folded)) == len(space.blocks)
        assert relative(folded(batches[0]), network(batches[0])) < TOLERANCE[torch.float64]
        mixed = supernet(batches[0].float(), arch)  # with statistics of many archs
        assert relative(folded(batches[0]), mixed) > 1e-3


def test_the_sum_is_normalised_for_its_number_of_paths() -> None:
    """In training mode the maps before the activation have mean 0 and variance 1, whatever m is."""
    space = load_space("s1:width=0.25,resolution=16,path_activation=after_sum")
    branch = Supernet(space).blocks[4].branches["e3"].train()  # type: ignore[union-attr]
    norms = [part.bn for part in branch.after_sum]
    seen: list[tuple[int, Tensor]] = []
    for number, bn in enumerate(norms, start=1):
        bn.register_forward_hook(
            lambda *call, number=number: seen.append((number, call[-1].clone()))
        )
    x = torch.randn(8, 24, 8, 8, generator=torch.Generator().manual_seed(0))
    for kernels in ((3,), (5, 9), (3, 7, 9), (3, 5, 7, 9)):
        branch(x, (kernels,))
        number, out = seen.pop()
        assert number == len(kernels) and not seen
        torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(72), rtol=0, atol=1e-5)
        torch.testing.assert_close(out.var((0, 2, 3)), torch.ones(72), rtol=0, atol=1e-2)


def test_paths_with_activations_do_not_fold() -> None:
    space = load_space("s1:width=0.25,resolution=16")
    network = Network(space, space.parse("_".join(["e3k3579"] * 12)))
    assert len(depthwise(fold_batch_norm(network))) == 4 * 12
