"""A stem and the first block as one function, against torch's own operators in float64."""

from typing import Any

import numpy as np
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
    threads,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mobilenas.nn import Network, Supernet
from mobilenas.nn.blocks import InvertedBottleneck, conv_bn, init_weights
from mobilenas.nn.kernels import bottleneck
from mobilenas.space import load_space
from mobilenas.space.spec import Activation

pytestmark = FUSED_BLOCKS


class Start(nn.Module):
    """A stem and the first block."""

    def __init__(self, stem: nn.Module, first: InvertedBottleneck) -> None:
        super().__init__()
        self.stem, self.first = stem, first

    def forward(self, x: Tensor) -> Tensor:
        y = self.first.after(self.stem, x)
        return self.first(self.stem(x)) if y is None else y  # type: ignore[no-any-return]


def start(
    colours: int = 3,
    hidden: int = 8,
    kernel: int = 3,
    stride: int = 2,
    kernels: tuple[int, ...] = (3,),
    clamps: bool = True,
    **changes: Any,
) -> Start:
    activation: Activation = "relu6" if clamps else "relu"
    bias = BIASES[clamps]
    changes = {"in_channels": hidden, "residual": False, "activation": activation} | changes
    first = block(kernels, 1, bias, **changes)
    stem = conv_bn(colours, hidden, kernel, stride, activation)
    made = Start(stem, first)
    init_weights(stem, torch.Generator().manual_seed(0))
    nn.init.constant_(stem.bn.bias, bias)
    return made.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(3, 19), st.integers(3, 19)),
    hidden=st.integers(2, 40),
    out_channels=st.integers(1, 20),
    kernel=st.sampled_from([1, 3, 5, 7]),
    stride=st.integers(1, 3),
    kernels=st.sampled_from(SOME_KERNELS),
    clamps=st.booleans(),
    num_threads=st.integers(1, 3),
)
def test_a_stem_is_equal_to_torch_in_float64(
    shape: tuple[int, int, int, int],
    hidden: int,
    out_channels: int,
    kernel: int,
    stride: int,
    kernels: tuple[int, ...],
    clamps: bool,
    num_threads: int,
) -> None:
    made = start(shape[1], hidden, kernel, stride, kernels, clamps, out_channels=out_channels)
    x = images(max(shape[0], 2), *shape[1:])
    with threads(num_threads):
        found = errors(made, x, inputs=False)
    theirs = errors(made, x, fused=False, inputs=False)
    assert all(error < LIMITS[clamps] + 3 * theirs[name] for name, error in found.items()), found


def test_where_a_stem_is_torchs() -> None:
    x = images(3, 3, 16, 16)
    assert is_fused(start(), x)
    assert not is_fused(start(), x.requires_grad_())
    x = x.detach()
    assert not is_fused(start(residual=True, out_channels=8), x)
    for part in ("stem", "stem.conv", "first", "first.bns.0"):
        made = start()
        made.get_submodule(part).register_forward_hook(lambda *_: None)
        assert not is_fused(made, x)
    others = {"groups": 3, "dilation": (2, 2), "padding_mode": "reflect", "padding": (3, 3)}
    for name, value in others.items():
        made = start(3, 6)
        setattr(made.stem.conv, name, value)
        assert not bottleneck._is_dense(made.stem.conv)  # type: ignore[arg-type]


def test_networks_and_supernets_begin_with_it() -> None:
    space = load_space("mobilenetv2:width=0.5,resolution=32")
    arch = space.sample(np.random.default_rng(0))
    x = images(2, 3, 32, 32)
    network, supernet = Network(space, arch, drop_rate=0.0), Supernet(space)
    for made in (network, supernet):
        made.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.load_from(supernet)
    ours, theirs = network(x), supernet(x, arch)
    assert torch.equal(ours, theirs)
    assert nodes(ours).count(FUSED) == nodes(theirs).count(FUSED) == len(space.layers)
    hook = network.blocks.register_forward_hook(lambda *_: None)
    assert nodes(network(x)).count(FUSED) == len(space.layers) - 1
    hook.remove()
    network.set_grad_checkpointing()
    assert nodes(network(x)).count(FUSED) == len(space.layers) - 1


def test_a_network_of_its_stem_alone() -> None:
    space = load_space("s1:width=0.25")
    network = Network(space, space.sample(np.random.default_rng(0)))
    network.stage_ends[0] = 0
    network.blocks = network.blocks[:0]
    network.conv_head = nn.Identity()
    x = images(2, 3, 32, 32)
    assert torch.equal(network.forward_features(x), network.stem(x))
