"""Networks have the verbs of timm's models, and deployers' tools can read them."""

import copy
import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.layers import DropPath
from timm.models import group_parameters
from torch import Tensor, nn

from mobilenas.base.errors import BadInput
from mobilenas.nn import Network
from mobilenas.nn.blocks import build
from mobilenas.space import Arch, Candidate, Space, load_space, space_from_dict

Change = Callable[..., nn.Module]
MACRO = load_space("macro:width=0.25,resolution=16")
ARCH = MACRO.parse("e3k3_id_id_e6k5_e3k3_e6k5_id_e3k3")


def images(space: Space, n: int = 2) -> Tensor:
    size = (n, space.spec.in_channels, space.resolution, space.resolution)
    return torch.randn(size, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def network(small_space: Space, sample: Callable[..., list[Arch]], unlike_fresh: Change) -> Network:
    network = Network(small_space, sample(small_space, 1)[0])
    unlike_fresh(network).eval()
    return network


@torch.no_grad()
def test_forward_is_head_of_features(network: Network) -> None:
    x = images(network.space)
    features = network.forward_features(x)
    last = network.space.layers[-1].out_size
    assert features.shape == (2, network.num_features, last, last)
    logits = network(x)
    assert logits.shape == (2, network.num_classes)
    assert torch.equal(logits, network.forward_head(features))
    pooled = network.forward_head(features, pre_logits=True)
    assert pooled.shape == (2, network.num_features) == (2, network.head_hidden_size)
    torch.testing.assert_close(pooled, features.mean((2, 3)))
    assert torch.equal(logits, network.get_classifier()(pooled))


@torch.no_grad()
def test_reset_classifier(network: Network) -> None:
    x = images(network.space)
    pooled = network.forward_head(network.forward_features(x), pre_logits=True)
    network.reset_classifier(0)
    assert isinstance(network.get_classifier(), nn.Identity)
    assert network.num_classes == 0
    assert torch.equal(network(x), pooled)
    network.reset_classifier(7)
    assert network.num_classes == network.get_classifier().out_features == 7
    assert network(x).shape == (2, 7)
    assert network.space.num_classes == 10


def test_number_of_classes_and_dropout_can_be_chosen() -> None:
    assert Network(MACRO, ARCH, num_classes=3)(images(MACRO)).shape == (2, 3)
    assert Network(MACRO, ARCH, num_classes=0)(images(MACRO)).shape == (2, 320)
    space = load_space("macro:width=0.25,resolution=16,head.dropout=0.5")
    assert [Network(space, ARCH, drop_rate=r).drop_rate for r in (None, 0.0)] == [0.5, 0.0]
    pooled = Network(space, ARCH).train().forward_head(torch.ones(1, 320, 2, 2), pre_logits=True)
    assert set(pooled.unique().tolist()) == {0, 2}
    assert torch.equal(
        Network(space, ARCH).eval().forward_head(torch.ones(1, 320, 2, 2), pre_logits=True),
        torch.ones(1, 320),
    )


def feature_maps(network: Network) -> list[Tensor]:
    """What the modules that feature_info names put out."""
    maps: list[Tensor] = []
    parts = [network.get_submodule(str(row["module"])) for row in network.feature_info]
    hooks = [part.register_forward_hook(lambda *call: maps.append(call[-1])) for part in parts]
    with torch.no_grad():
        network.eval()(images(network.space))
    for hook in hooks:
        hook.remove()
    return maps


def check_feature_info(network: Network) -> None:
    rows, maps = network.feature_info, feature_maps(network)
    assert len(rows) == len(maps) > 1
    assert [row["num_chs"] for row in rows] == [len(m[0]) for m in maps]
    stem, layers = network.space.spec.stem, network.space.layers
    last = [int(str(row["module"]).removeprefix("blocks.")) for row in rows]
    # the true reduction: the product of all strides up to the module
    strides = [stem.stride * math.prod(b.stride for b in layers[: n + 1]) for n in last]
    assert [row["reduction"] for row in rows] == strides
    assert strides == sorted(set(strides))
    assert [-(-network.space.resolution // s) for s in strides] == [m.shape[-1] for m in maps]


def test_feature_info_is_true_of_the_feature_maps(network: Network) -> None:
    check_feature_info(network)
    assert network.feature_info[-1]["module"] == f"blocks.{len(network.space.layers) - 1}"


@pytest.mark.parametrize("resolution", [15, 17, 18, 30])
def test_feature_info_is_true_at_sizes_that_the_strides_do_not_divide(resolution: int) -> None:
    space = load_space(f"macro:width=0.25,resolution={resolution}")
    check_feature_info(Network(space, ARCH))


@torch.no_grad()
def test_state_dict_makes_an_equal_network(network: Network) -> None:
    other = Network(network.space, network.arch).eval()
    x = images(network.space)
    assert not torch.equal(other(x), network(x))
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(x), network(x))


def test_the_seed_alone_decides_the_weights() -> None:
    def weights(seed: int) -> Tensor:
        network = Network(MACRO, ARCH, generator=torch.Generator().manual_seed(seed))
        return torch.cat([p.detach().flatten() for p in network.parameters()])

    torch.manual_seed(1)
    first = weights(3)
    torch.manual_seed(2)
    assert torch.equal(first, weights(3))
    assert not torch.equal(first, weights(4))


@torch.no_grad()
def test_intermediates_are_the_feature_maps_on_the_way(network: Network) -> None:
    x, maps = images(network.space), feature_maps(network)
    features = network.forward_features(x)

    def check(found: Any, rows: list[int], last: Tensor | None) -> None:
        if last is not None:
            assert torch.equal(found[0], last)
            found = found[1]
        assert len(found) == len(rows)
        assert all(torch.equal(one, maps[row]) for one, row in zip(found, rows, strict=True))

    count = len(maps)
    every = list(range(count))
    check(network.forward_intermediates(x), every, features)
    check(network.forward_intermediates(x, indices=2, norm=True), every[-2:], features)
    check(network.forward_intermediates(x, indices=(0, -1)), [0, count - 1], features)
    check(network.forward_intermediates(x, indices=[0], stop_early=True), [0], maps[0])
    check(network.forward_intermediates(x, indices=1, stop_early=True), every[-1:], features)
    check(network.forward_intermediates(x, 2, intermediates_only=True), every[-2:], None)


@torch.no_grad()
def test_pruned_layers_are_those_behind_the_feature_maps(network: Network) -> None:
    x, maps = images(network.space), feature_maps(network)
    assert network.prune_intermediate_layers([0, -2]) == [0, len(maps) - 2]
    end = str(network.feature_info[-2]["module"]).removeprefix("blocks.")
    assert len(network.blocks) == int(end) + 1
    assert network.num_features == network.head_hidden_size == maps[-2].shape[1]
    assert torch.equal(network(x), maps[-2])
    _, found = network.forward_intermediates(x, [0, len(maps) - 2])
    assert all(torch.equal(one, maps[row]) for one, row in zip(found, (0, -2), strict=True))


@torch.no_grad()
def test_pruning_may_leave_the_head() -> None:
    network = Network(MACRO, ARCH).eval()
    logits = network(images(MACRO))
    network.prune_intermediate_layers(1, prune_head=False)
    assert torch.equal(network(images(MACRO)), logits)
    network.prune_intermediate_layers([0], prune_head=False)
    assert network(images(MACRO)).shape == (2, 16, 8, 8)


@pytest.mark.parametrize("indices", [[3], [-4], 4, 0, []])
def test_feature_maps_that_are_not_there_are_refused(indices: Any) -> None:
    network = Network(MACRO, ARCH)
    for ask in (
        lambda: network.forward_intermediates(images(MACRO), indices),
        lambda: network.prune_intermediate_layers(indices),
    ):
        with pytest.raises(BadInput, match="there are 3 feature maps, 0 to 2"):
            ask()
    with pytest.raises(BadInput, match="NLC"):
        network.forward_intermediates(images(MACRO), output_fmt="NLC")


def test_a_stem_that_reduces_has_a_level_if_no_block_is_on_it(mixed_data: dict[str, Any]) -> None:
    mixed_data["stem"]["stride"] = 2
    mixed_data["stages"] = [{"channels": 12, "stride": 2}]
    network = Network(space_from_dict(mixed_data), Arch.parse("e3k3")).eval()
    rows = [(row["num_chs"], row["reduction"], row["module"]) for row in network.feature_info]
    assert rows == [(8, 2, "stem.act"), (12, 4, "blocks.0")]
    x = images(network.space)
    with torch.no_grad():
        _, (first, second) = network.forward_intermediates(x)
        assert torch.equal(first, network.stem(x))
        assert torch.equal(second, network.blocks(first))
    network.prune_intermediate_layers([0])
    assert len(network.blocks) == 0


def test_images_may_have_other_channels() -> None:
    network = Network(MACRO, ARCH, in_chans=5)
    assert network.in_chans == 5
    assert network(torch.zeros(2, 5, 16, 16)).shape == (2, 10)
    assert Network(MACRO, ARCH).in_chans == 3


@torch.no_grad()
def test_pooling_can_be_left_out() -> None:
    network = Network(MACRO, ARCH, num_classes=0, global_pool="").eval()
    assert torch.equal(network(images(MACRO)), network.forward_features(images(MACRO)))
    network.reset_classifier(4, "avg")
    assert network(images(MACRO)).shape == (2, 4)
    with pytest.raises(BadInput, match=r"global_pool '' .* needs num_classes 0"):
        network.reset_classifier(4, "")
    with pytest.raises(BadInput, match="global_pool 'max'"):
        Network(MACRO, ARCH, global_pool="max")


@pytest.mark.parametrize(
    "wrong", [{"num_classes": -1}, {"in_chans": 0}, {"drop_path_rate": 1.5}, {"drop_path_rate": -1}]
)
def test_wrong_arguments_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=f"{next(iter(wrong))} .*: it must be"):
        Network(MACRO, ARCH, **wrong)


def test_a_fresh_classifier_is_where_the_network_is() -> None:
    network = Network(MACRO, ARCH).double().eval()
    network.reset_classifier(3)
    assert not network.classifier.training
    assert network(images(MACRO).double()).dtype == torch.float64


def test_drop_path_grows_linearly_over_the_residual_blocks(small_space: Space) -> None:
    arch = Arch(tuple(block.candidates[-1] for block in small_space.blocks))
    network = Network(small_space, arch, drop_path_rate=0.4)
    depth = len(small_space.layers)
    rates = {
        i: part.drop_prob
        for i, block in enumerate(network.blocks)
        for part in block.modules()
        if isinstance(part, DropPath)
    }
    residual = [i for i, block in enumerate(small_space.layers) if block.keeps_shape]
    assert rates == {i: pytest.approx(0.4 * i / depth) for i in residual if i > 0}
    plain = Network(small_space, arch)
    assert plain.state_dict().keys() == network.state_dict().keys()


def test_drop_path_skips_whole_images_and_keeps_the_mean() -> None:
    space = load_space("s1:width=0.25,resolution=16")
    block = build(space.layers[1], Candidate.parse("e3k35"), drop_path=0.25).train()
    nn.init.ones_(block.bns[0].weight)
    for norm in block.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eval()
    x = torch.randn(64, 16, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    with torch.no_grad():
        y = block(x)
        kept = (y != x).flatten(1).any(dim=1)
        assert 32 < int(kept.sum()) < 64
        added = block.eval()(x) - x
        torch.testing.assert_close(y[kept], x[kept] + added[kept] / 0.75)


@pytest.mark.parametrize("forward", ["forward", "forward_intermediates"])
def test_checkpointing_changes_no_gradient(forward: str, unlike_fresh: Change) -> None:
    space = load_space("s1:width=0.25")
    plain = Network(space, space.parse("_".join(["e3k35", "e6k9"] * 6)))
    unlike_fresh(plain)
    saving = copy.deepcopy(plain)
    saving.set_grad_checkpointing()
    kept = []
    for network in (plain, saving):
        sizes: list[int] = []

        def pack(x: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(x.numel())
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            out = getattr(network, forward)(images(space, 4))
        (out if forward == "forward" else out[0]).square().mean().backward()
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 2
    for (name, one), other in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert (one.grad is None) == name.startswith("classifier") * (forward != "forward")
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad)


def test_parameters_are_grouped_by_depth(network: Network) -> None:
    names = [name for name, _ in network.named_parameters()]
    fine, coarse = (
        group_parameters(network, network.group_matcher(coarse), reverse=True)
        for coarse in (False, True)
    )
    for group_of in (fine, coarse):
        order = [group_of[name] for name in names]
        assert order == sorted(order)
        last_block = max(name for name in names if name.startswith("blocks."))
        assert group_of["conv_head.bn.bias"] == max(order) - 1 >= group_of[last_block]
    with_weights = [block for block in network.blocks if list(block.parameters())]
    assert len(set(fine.values())) == len(with_weights) + 2
    sizes = [block.out_size for block in network.space.layers]
    of_size: dict[int, set[int]] = {}
    for name in names:
        if name.startswith("blocks."):
            of_size.setdefault(sizes[int(name.split(".")[1])], set()).add(coarse[name])
    assert all(len(groups) == 1 for groups in of_size.values())
    assert len(set(coarse.values())) == len(of_size) + 2


def test_timm_is_imported_only_where_it_is_needed() -> None:
    code = (
        "import sys; from mobilenas.nn import Network; from mobilenas.space import load_space\n"
        "space = load_space('macro'); Network(space, space.parse('_'.join(['e3k3'] * 8)))\n"
        "assert 'timm' not in sys.modules and 'mobilenas.timm' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_dropout_is_the_only_chance_in_training() -> None:
    network = Network(MACRO, ARCH).train()
    assert torch.equal(network(images(MACRO)), network(images(MACRO)))


def test_an_arch_of_another_space_is_refused() -> None:
    with pytest.raises(BadInput, match="arch block 1: e3k5 is not one of"):
        Network(MACRO, Arch.parse("_".join(["e3k5"] * 8)))
    with pytest.raises(BadInput, match="arch has 7 blocks"):
        Network(MACRO, Arch(ARCH.blocks[:7]))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@torch.no_grad()
def test_trace(network: Network) -> None:
    traced = torch.jit.trace(network, images(network.space), check_trace=False)
    x = images(network.space, 3)
    torch.testing.assert_close(traced(x), network(x))


@torch.no_grad()
def test_export(network: Network) -> None:
    x = images(network.space)
    program = torch.export.export(network, (x,))
    torch.testing.assert_close(program.module()(x), network(x))


@torch.no_grad()
def test_export_with_any_batch_size(unlike_fresh: Change) -> None:
    network = Network(MACRO, ARCH)
    unlike_fresh(network).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(network, (images(MACRO),), dynamic_shapes=({0: batch},))
    x = images(MACRO, 5)
    torch.testing.assert_close(program.module()(x), network(x))
