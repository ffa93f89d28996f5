"""Canonical archs: one name for equal networks, another for others, in spaces of every kind."""

from collections import defaultdict
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mobilenas.base.errors import BadInput
from mobilenas.cost import CostModel
from mobilenas.nn import Network
from mobilenas.nn.blocks import InvertedBottleneck
from mobilenas.space import IDENTITY, Arch, Space, list_spaces, load_space, space_from_dict


def uneven(stages: list[dict[str, Any]], **keys: Any) -> Space:
    """A narrow space of stages that keep 8 channels, with the given candidates."""
    base = {
        "name": "uneven",
        "description": "neighbours with other candidates",
        "resolution": 4,
        "num_classes": 3,
        "stem": {"channels": 8},
        "candidates": ["id", "e2k3", "e3k3"],
        "head": {"channels": 8},
    }
    return space_from_dict(base | {"stages": [{"channels": 8} | stage for stage in stages]} | keys)


# Each has a run of blocks of one shape in which something stands in the way of moving identities.
UNEVEN = {
    "other candidates": uneven(
        [{"blocks": 2}, {"candidates": ["id", "e2k3"]}, {"candidates": ["e3k3", "id", "e4k3"]}]
    ),
    "a block without identity": uneven([{}, {"candidates": ["e2k3", "e3k5"]}, {}]),
    "a fixed block": uneven([{}, {"fixed": "e2k3"}, {"blocks": 2}]),
    "a fixed identity": uneven([{}, {"fixed": "id"}, {}]),
    "another activation": uneven([{}, {"activation": "swish"}, {}]),
    "squeeze-excite": uneven([{}, {"squeeze_excite": 0.5}, {}]),
    "other channels": uneven([{"blocks": 2}, {"channels": 16, "blocks": 2}, {"channels": 16}]),
    "a stride": uneven([{}, {"stride": 2}, {}, {"channels": 8}]),
    "no residual": uneven([{"blocks": 2}, {"blocks": 2}], residual_across_stages=False),
}
GROUPED = {"expansions": [2, 3], "kernels": [3, 5], "groups": 3, "skip": True}
SPACES = {
    **{name: load_space(name) for name in list_spaces()},
    **UNEVEN,
    "groups of unequal width": uneven([{"blocks": 3}], candidates=GROUPED),
}
COST_MODELS = {name: CostModel(space) for name, space in SPACES.items()}


def all_archs(space: Space) -> list[Arch]:
    return [space.decode(np.array(g)) for g in product(*map(range, space.num_candidates))]


def test_macro_has_3969_distinct_networks() -> None:
    """Su et al. 2021 trained each of these once."""
    space = load_space("macro")
    names = {arch: space.canonical(arch) for arch in all_archs(space)}
    assert (len(names), len(set(names.values()))) == (6561, 3969)
    arch = space.parse("id_id_e3k3_id_e6k5_id_id_e3k3")
    assert str(names[arch]) == "id_id_e3k3_e6k5_id_id_e3k3_id"


@settings(deadline=None)  # the first arch of a space takes longer than the others
@given(st.sampled_from(sorted(SPACES)), st.integers(0, 2**32 - 1))
def test_a_canonical_arch_is_of_the_space_costs_the_same_and_is_its_own_name(
    name: str, seed: int
) -> None:
    space, cost_model = SPACES[name], COST_MODELS[name]
    arch = space.decode(space.sample_genes(1, np.random.default_rng(seed))[0])
    canonical = space.canonical(arch)
    assert space.parse(str(canonical)) == canonical == space.canonical(canonical)
    assert cost_model.flops(canonical) == cost_model.flops(arch)
    assert cost_model.params(canonical) == cost_model.params(arch)


@pytest.mark.parametrize("name", UNEVEN)
def test_archs_have_one_name_exactly_if_their_layers_are_the_same(name: str) -> None:
    """Against the modules that are built, without those that do nothing, over the whole space."""
    space = UNEVEN[name]
    names = defaultdict(set)
    for arch in all_archs(space):
        blocks = [b for b in Network(space, arch).blocks if not isinstance(b, nn.Identity)]
        forms = tuple((repr(block), getattr(block, "residual", None)) for block in blocks)
        names[forms].add(space.canonical(arch))
    assert all(len(found) == 1 for found in names.values())
    assert len(set.union(*names.values())) == len(names) < space.num_archs


def test_a_sequence_fits_where_later_blocks_need_their_share() -> None:
    """At the first place that offers e2k3 it would be missing in the fixed block."""
    space = UNEVEN["a fixed block"]
    assert str(space.canonical(Arch.parse("id_id_e3k3"))) == "id_e3k3_id"
    assert str(space.canonical(Arch.parse("id_id_e2k3"))) == "e2k3_id_id"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("e3k9.7.5.3", "e3k3.5.7.9"),
        ("e6k5.3.5.3", "e6k3.3.5.5"),
        ("e3k3.5.7.9", "e3k3.5.7.9"),
    ],
)
def test_channel_groups_are_ordered(text: str, expected: str) -> None:
    space = load_space("s3")
    rest = ["e3k3.3.3.3"] * 17
    assert str(space.canonical(Arch.parse("_".join([text, *rest])))).split("_")[0] == expected


def test_groups_of_unequal_width_have_one_name_if_as_many_channels_have_each_kernel() -> None:
    space = uneven([{}], candidates={"expansions": [2], "kernels": [3, 5], "groups": 3})
    names = defaultdict(set)
    for arch in all_archs(space):  # 16 hidden channels: groups of 6, 5 and 5
        names[str(space.canonical(arch))].add(str(arch))
    assert names["e2k3.3.5"] == {"e2k3.3.5", "e2k3.5.3"}
    assert names["e2k5.3.3"] == {"e2k5.3.3"}
    assert len(names) == 6


def test_groups_without_an_expansion_keep_their_order() -> None:
    """Their channels are those of the input, which the shortcut takes in order."""
    space = uneven([{}], candidates={"expansions": [1], "kernels": [3, 5], "groups": 2})
    assert len({space.canonical(arch) for arch in all_archs(space)}) == 4


def test_an_arch_of_another_space_is_refused() -> None:
    with pytest.raises(BadInput, match="arch has 3 blocks, space macro has 8"):
        load_space("macro").canonical(Arch((IDENTITY,) * 3))


def built(space: Space, arch: Arch, change: Any, seed: int) -> Network:
    generator = torch.Generator().manual_seed(seed)
    return change(Network(space, arch, generator=generator), seed).eval()


def test_aliases_by_moved_identities_are_equal_networks(unlike_fresh: Any) -> None:
    space = load_space("macro:width=0.25,resolution=16")
    arch = space.parse("e3k3_e6k5_id_id_e6k5_e3k3_id_e3k3")
    one = built(space, arch, unlike_fresh, 0)
    other = built(space, space.canonical(arch), unlike_fresh, 1)
    assert str(other.arch) == "e3k3_e6k5_id_e6k5_id_e3k3_e3k3_id"
    for name in ("stem", "conv_head", "classifier"):
        getattr(other, name).load_state_dict(getattr(one, name).state_dict())
    pairs = ([b for b in net.blocks if not isinstance(b, nn.Identity)] for net in (one, other))
    for source, target in zip(*pairs, strict=True):
        target.load_state_dict(source.state_dict())
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(other(images), one(images), rtol=0, atol=1e-5)


def permuted_copy(source: InvertedBottleneck, target: InvertedBottleneck) -> None:
    """Give target the weights of source, with the hidden channels in the order of target."""
    kernel_of = [
        [k for (k,), width in zip(block.kernels, block.widths, strict=True) for _ in range(width)]
        for block in (source, target)
    ]
    order = np.empty(len(kernel_of[0]), int)  # of each channel of target, the one of source
    order[np.argsort(kernel_of[1], kind="stable")] = np.argsort(kernel_of[0], kind="stable")
    hidden = {"expand.conv.weight": 0, "project.weight": 1}
    hidden |= {f"expand.bn.{part}": 0 for part in ("weight", "bias", "running_mean", "running_var")}
    hidden |= {"squeeze_excite.fc1.weight": 1}
    hidden |= {f"squeeze_excite.fc2.{part}": 0 for part in ("weight", "bias")}
    state = {
        key: value.index_select(hidden[key], torch.tensor(order)) if key in hidden else value
        for key, value in source.state_dict().items()
        if not key.startswith("groups.")
    }
    target.load_state_dict(state, strict=False)
    places = [(g, i) for g, width in enumerate(source.widths) for i in range(width)]
    for channel, (group, inner) in enumerate(places):
        from_group, from_inner = places[order[channel]]
        (path,), (from_path,) = target.groups[group].values(), source.groups[from_group].values()
        other = from_path.state_dict()
        for name, own in path.state_dict().items():
            if own.ndim:  # all but the count of batches
                own[inner] = other[name][from_inner]


@pytest.mark.parametrize(
    ("space", "text"),
    [
        (load_space("s3:width=0.25,resolution=32,num_classes=5,squeeze_excite=0.25"), None),
        (SPACES["groups of unequal width"], "e2k5.5.3_e3k5.3.3_e3k5.5.3"),
    ],
    ids=["s3 with squeeze-excite", "unequal width"],
)
def test_aliases_by_permuted_groups_are_equal_networks(
    unlike_fresh: Any, space: Space, text: str | None
) -> None:
    arch = space.parse(text) if text else space.sample(np.random.default_rng(0))
    one = built(space, arch, unlike_fresh, 0)
    other = built(space, space.canonical(arch), unlike_fresh, 1)
    assert other.arch != arch
    for name in ("stem", "conv_head", "classifier"):
        getattr(other, name).load_state_dict(getattr(one, name).state_dict())
    for source, target in zip(one.blocks, other.blocks, strict=True):
        assert isinstance(source, InvertedBottleneck) and isinstance(target, InvertedBottleneck)
        permuted_copy(source, target)
    size = space.resolution
    images = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(other(images), one(images), rtol=0, atol=1e-5)
