"""A block as one function, against torch's own operators in float64."""

import copy
import logging
import statistics
from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from fusing import (
    BIASES,
    FUSED,
    FUSED_BLOCKS,
    LIMITS,
    SOME_KERNELS,
    block,
    errors,
    images,
    is_fused,
    nodes,
    results,
    spec,
    threads,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from mobilenas.nn import Supernet
from mobilenas.nn.blocks import InvertedBottleneck
from mobilenas.nn.choice_block import ChoiceBlock
from mobilenas.nn.kernels import bottleneck, plain_kernels
from mobilenas.nn.kernels.compiled import library
from mobilenas.space import Candidate, load_space

pytestmark = FUSED_BLOCKS


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 20), st.integers(3, 19), st.integers(3, 19)),
    out_channels=st.integers(1, 20),
    expansion=st.integers(2, 6),
    stride=st.sampled_from([1, 2]),
    kernels=st.sampled_from(SOME_KERNELS),
    clamps=st.booleans(),
    num_threads=st.integers(1, 3),
)
def test_equal_to_torch_in_float64(
    shape: tuple[int, int, int, int],
    out_channels: int,
    expansion: int,
    stride: int,
    kernels: tuple[int, ...],
    clamps: bool,
    num_threads: int,
) -> None:
    made = block(
        kernels,
        expansion,
        bias=BIASES[clamps],
        activation="relu6" if clamps else "relu",
        in_channels=shape[1],
        out_channels=out_channels,
        stride=stride,
    )
    with threads(num_threads):
        found = errors(made, images(*shape))
    theirs = errors(made, images(*shape), fused=False)
    assert all(error < LIMITS[clamps] + 3 * theirs[name] for name, error in found.items()), found


def test_gradients_are_as_exact_as_those_of_torch() -> None:
    ours, theirs = [], []
    for seed in range(8):
        made, x = block((5, 9), 6), images(4, 8, 16, 16, seed=seed)
        ours += errors(made, x).values()
        theirs += errors(made, x, fused=False).values()
    assert statistics.median(ours) < 1.2 * statistics.median(theirs)


def test_a_large_mean_costs_no_digits() -> None:
    made, x = block((3,), activation="relu", bias=20.0), images(4, 8, 16, 16)
    with torch.no_grad():
        made.expand.conv.weight.abs_()  # type: ignore[operator, union-attr]
    ours, theirs = (errors(made, x + 300, fused) for fused in (True, False))
    name = "expand.bn.running_var"
    assert ours[name] < 1e-4 and ours[name] < 2 * theirs[name]


def test_statistics_follow_several_batches() -> None:
    ours = block()
    theirs = copy.deepcopy(ours)
    for seed in range(3):
        x = images(seed=seed)
        assert is_fused(ours, x)
        with plain_kernels():
            theirs(x)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_same_bits_each_time_for_one_number_of_threads(count: int) -> None:
    made, x = block((3, 9), 6), images(3, 8, 20, 20)
    with threads(count):
        first, *others = (results(made, x, torch.float32, True) for _ in range(4))
    for other in others:
        assert all(torch.equal(other[name], value) for name, value in first.items())


def test_weights_alone_may_need_gradients() -> None:
    made, x = block(), images()
    made(x).square().sum().backward()
    found = {name: p.grad for name, p in made.named_parameters()}
    made.zero_grad()
    made(x.requires_grad_()).square().sum().backward()
    assert all(torch.equal(p.grad, found[name]) for name, p in made.named_parameters())  # type: ignore[arg-type]


def test_gradients_of_other_formats_are_taken() -> None:
    made, x = block(), images().requires_grad_()
    grads = []
    for layout in (torch.channels_last, torch.contiguous_format):
        grad = images(3, 8, 9, 10, seed=2).contiguous(memory_format=layout)
        grads += torch.autograd.grad(made(x), x, grad)
    assert torch.equal(*grads)
    (grad,) = torch.autograd.grad(made(x).sum(), x)  # expanded from one number
    assert grad.isfinite().all()


def test_not_a_number_is_passed_on() -> None:
    x = images()
    x[0, 1, 2, 2] = torch.nan
    made = block()
    y = made(x)
    assert FUSED in nodes(y) and y.isnan().all()


def test_outputs_of_convolutions_are_all_that_is_kept() -> None:
    made, x = block((3, 5), 4, in_channels=16, residual=False), images(4, 16, 16, 16)
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        y = made(x)
    maps = x.nbytes + 3 * 4 * x.nbytes + y.nbytes  # hidden and two paths; before the last norm
    weights = sum(p.nbytes for p in made.parameters())
    assert maps < sum(kept.values()) < maps + 2 * weights + 4096


def test_a_supernet_shares_weights_and_trains_in_one_function() -> None:
    for sharing in ("none", "kernel", "expansion", "both"):
        torch.manual_seed(0)
        choice = ChoiceBlock(spec(), shadow_bn=True, sharing=sharing)  # type: ignore[arg-type]
        choice.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = images().requires_grad_()
        grads = []
        for context in (nullcontext(), plain_kernels()):
            with context:
                y = choice.chosen(Candidate(3, ((3, 5),)))(x)
                assert (FUSED in nodes(y)) == (not grads)
                choice.zero_grad()
                y.square().sum().backward()
            grads.append({n: p.grad for n, p in choice.named_parameters() if p.grad is not None})
        assert grads[0].keys() == grads[1].keys()
        for name, grad in grads[1].items():
            torch.testing.assert_close(grads[0][name], grad, rtol=1e-3, atol=1e-3)


def test_all_blocks_of_a_supernet_are_fused() -> None:
    space = load_space("s1:width=0.25")
    supernet = Supernet(space).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    y = supernet(images(2, 3, 32, 32), space.sample(np.random.default_rng(0)))
    assert nodes(y).count(FUSED) == len(space.blocks)


def test_everything_else_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    made, x = block(), images()
    assert is_fused(made, x) and is_fused(block(activation="relu"), x)
    with torch.no_grad():
        assert not is_fused(made, x)
    with plain_kernels():
        assert not is_fused(made, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not is_fused(made, x)
    assert not is_fused(made, x.contiguous())
    assert not is_fused(copy.deepcopy(made).double(), x.double())
    assert not is_fused(copy.deepcopy(made).eval(), x)
    assert not is_fused(block((3, 11)), x)
    assert not is_fused(block(activation="swish"), x)
    assert not is_fused(block(path_activation="after_sum"), x)
    assert not is_fused(block(squeeze_excite=0.25), x)
    assert not is_fused(InvertedBottleneck.new(spec(), 3, ((3,), (5,))), x)
    assert not is_fused(InvertedBottleneck.new(spec(), 1, ((3,),)), x)
    for norm in ("groups.0.k3.bn", "bns.0"):
        frozen = block()
        frozen.get_submodule(norm).eval()
        assert not is_fused(frozen, x)
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(block().expand)
    assert bottleneck._is_tracking(block().expand.bn)  # type: ignore[arg-type]
    assert not bottleneck._is_tracking(synced.bn)
    monkeypatch.setattr(bottleneck, "_MIN_ELEMENTS", 3 * 24 * 9 * 10 + 1)
    assert not is_fused(made, x)


@pytest.mark.parametrize("part", ["expand.conv", "groups.0", "groups.0.k7.act", "project", "bns.0"])
def test_hooks_see_what_goes_through_their_module(part: str) -> None:
    made, seen = block(), []
    made.get_submodule(part).register_forward_hook(lambda module, *_: seen.append(module))
    assert not is_fused(made, images())
    assert seen == [made.get_submodule(part)]


def test_operators_are_counted_where_something_counts_them() -> None:
    with FlopCounterMode(display=False) as counter:
        block()(images())
    assert counter.get_total_flops() > 0


def test_recomputed_in_the_backward_pass() -> None:
    made, grads = block(), []
    for run in (made, lambda x: checkpoint(made, x, use_reentrant=False)):
        x = images().requires_grad_()
        run(x).square().sum().backward()
        grads.append(x.grad)
    assert torch.equal(*grads)  # type: ignore[arg-type]


def test_second_derivatives_are_refused() -> None:
    made, x = block(), images()
    with pytest.raises(RuntimeError, match=r"plain_kernels\(\)"):
        torch.autograd.grad(made(x).sum(), list(made.parameters()), create_graph=True)


def test_functions_of_torch_func_are_not_ours() -> None:
    made, x = block(), images()
    with plain_kernels():
        expected = torch.autograd.grad(made(x.requires_grad_()).square().sum(), x)[0]
    for norm in made.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.track_running_stats, norm.num_batches_tracked = False, None
            norm.running_mean = norm.running_var = None
    gradient = torch.func.grad(lambda x: made(x).square().sum())(x.detach())
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "made",
    [
        torch.fx.symbolic_trace,
        torch.jit.script,
        lambda module: torch.jit.trace(module, images()),
        lambda module: torch.export.export(module, (images(),)).module(),
    ],
    ids=["fx", "script", "trace", "export"],
)
def test_tracers_meet_torchs_operators(made: Callable[[nn.Module], nn.Module]) -> None:
    module = block()
    traced = made(copy.deepcopy(module))
    assert is_fused(module, images()) and not is_fused(traced, images())
    torch.testing.assert_close(traced(images()), module(images()), rtol=1e-4, atol=1e-4)


def test_without_a_library_it_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    library.cache_clear()
    try:
        with caplog.at_level(logging.INFO, "mobilenas"):
            assert not is_fused(block(), images()) and not is_fused(block(), images())
    finally:
        library.cache_clear()
    (record,) = caplog.records
    assert record.levelno == logging.INFO and "C++ compiler" in record.getMessage()
