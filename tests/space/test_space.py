"""Spaces: their sizes, how they are drawn from, and the YAML that users write."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from timm.layers import make_divisible

from mobilenas.base.errors import BadInput
from mobilenas.space import (
    IDENTITY,
    Candidate,
    Space,
    list_spaces,
    load_space,
    space_from_dict,
    with_defaults,
)


@pytest.mark.parametrize(
    ("max_paths", "choices", "log10"),
    [(1, 8, 10.84), (2, 20, 15.61), (3, 28, 17.37), (4, 30, 17.73)],
)
def test_s1_has_the_number_of_archs_of_its_code(max_paths: int, choices: int, log10: float) -> None:
    space = load_space(f"s1:candidates.max_paths={max_paths}")
    assert [len(block.candidates) for block in space.blocks] == [choices] * 12
    assert [len(set(block.candidates)) for block in space.blocks] == [choices] * 12
    assert space.num_archs == choices**12
    assert round(math.log10(space.num_archs), 2) == log10


@pytest.mark.parametrize(
    ("name", "choices", "blocks"),
    [("macro", 3, 8), ("fairnas", 6, 18), ("s2", 30, 18), ("s3", 2 * 4**4, 18)],
)
def test_other_shipped_spaces_have_their_sizes(name: str, choices: int, blocks: int) -> None:
    assert load_space(name).num_archs == choices**blocks


def test_s1_geometry_is_that_of_the_released_code() -> None:
    blocks = load_space("s1").layers
    out = [48, 48, 96, 96, 96, 192, 192, 192, 256, 256, 320, 320]
    assert [b.out_channels for b in blocks] == out
    assert [b.in_channels for b in blocks] == [32, *out[:-1]]
    assert [b.stride for b in blocks] == [1, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1]
    assert [b.in_size for b in blocks] == [32] * 3 + [16] * 3 + [8] * 6
    assert [b.keeps_shape for b in blocks] == [s == "r" for s in ".r.rr.rr.r.r"]


def test_s1_is_sampled_as_by_the_released_code() -> None:
    """Expansion, number of paths and the paths of that number are each uniform."""
    space, rng = load_space("s1"), np.random.default_rng(0)
    drawn = [candidate for _ in range(1500) for candidate in space.sample(rng).blocks]
    for expansion in (3, 6):
        for count in (1, 2, 3, 4):
            found = Counter(
                c.kernels[0] for c in drawn if (c.expansion, c.num_paths) == (expansion, count)
            )
            subsets = math.comb(4, count)
            assert len(found) == subsets
            expected = len(drawn) / 8 / subsets  # at least 375, so 25 % is over 4.8 sigma
            assert max(abs(n / expected - 1) for n in found.values()) < 0.25, (expansion, count)
            assert found.total() == pytest.approx(len(drawn) / 8, rel=0.1)  # 5 sigma


def test_single_path_blocks_are_sampled_uniformly_identity_included(mixed_space: Space) -> None:
    rng = np.random.default_rng(0)
    archs = [mixed_space.sample(rng) for _ in range(3000)]
    for number in range(3):
        found = Counter(arch.blocks[number] for arch in archs)
        choices = len(mixed_space.blocks[number].candidates)
        assert len(found) == choices
        assert all(abs(n * choices / 3000 - 1) < 0.2 for n in found.values())


def test_sampling_follows_the_generator_alone() -> None:
    for name in list_spaces():
        space = load_space(name)
        first, second = (
            [space.sample(np.random.default_rng(seed)) for seed in (5, 6)] for _ in range(2)
        )
        assert first == second
        assert first[0] != first[1]


def test_genes_are_sampled_uniformly_from_the_whole_space() -> None:
    space = load_space("s1")
    genes = space.sample_genes(20_000, np.random.default_rng(0))
    assert genes.shape == (20_000, 12)
    counts = np.bincount(genes.ravel(), minlength=30)
    assert len(counts) == 30
    assert np.all(np.abs(counts / 8000 - 1) < 0.06)  # 5 sigma


def write(folder: Path, data: object) -> str:
    path = folder / "space.yaml"
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data))
    return str(path)


def test_a_space_that_the_user_wrote(tmp_path: Path, mixed_data: dict[str, Any]) -> None:
    space = load_space(write(tmp_path, mixed_data))
    assert space.name == "mixed"
    assert [b.searchable for b in space.layers] == [True, False, True, True, True, True]
    assert [b.name for b in space.blocks] == [f"block {n}" for n in range(1, 6)]
    first, fixed, listed, skipping, multi, grouped = space.layers
    assert [str(c) for c in first.candidates] == ["e2k3", "e2k7"]
    assert [str(c) for c in fixed.candidates] == ["e1k5"]
    assert [str(c) for c in listed.candidates] == ["id", "e3k3", "e6k5"]
    assert [str(c) for c in skipping.candidates] == ["id", "e2k3", "e2k5", "e4k3", "e4k5"]
    per_expansion = {"k1", "k3", "k5", "k13", "k15", "k35"}
    assert {str(c) for c in multi.candidates} == {"id"} | {
        f"e{e}{k}" for e in (2, 3) for k in per_expansion
    }
    assert {str(c) for c in grouped.candidates} == {"e2k3.3", "e2k3.5", "e2k5.3", "e2k5.5"}
    activations = ["relu6", "hard_swish", "relu6", "relu6", "swish", "relu6"]
    assert [b.activation for b in space.layers] == activations
    assert [b.squeeze_excite for b in space.layers] == [0, 0, 0, 0, 0.5, 0]
    assert space.spec.in_channels == 1
    assert (listed.in_size, listed.out_size, skipping.in_size) == (12, 6, 6)
    arch = space.sample(np.random.default_rng(0))
    assert space.candidates_of(arch) == [arch.blocks[0], *fixed.candidates, *arch.blocks[1:]]


def test_skip_offers_the_identity_only_where_shapes_agree() -> None:
    space = load_space("s1:candidates.skip=true,candidates.max_paths=1")
    for block in space.blocks:
        assert (IDENTITY in block.candidates) == block.keeps_shape
    assert sum(IDENTITY in block.candidates for block in space.blocks) == 7


@given(
    width=st.floats(0.01, 4).filter(lambda w: w != 1),
    divisor=st.sampled_from([1, 2, 4, 8, 16]),
)
def test_width_is_rounded_as_by_timm(width: float, divisor: int) -> None:
    space = space_from_dict(load_space("macro").to_dict() | {"width": width, "divisor": divisor})
    for channels in range(1, 300):
        assert space.scaled(channels) == make_divisible(channels * width, divisor)


def test_width_scales_all_channels_but_the_classes_and_one_changes_nothing() -> None:
    plain, half = load_space("s1"), load_space("s1:width=0.5")
    assert [b.out_channels for b in half.layers] == [b.out_channels // 2 for b in plain.layers]
    assert (half.stem_channels, half.head_channels, half.num_classes) == (16, 640, 10)
    data = plain.to_dict() | {"divisor": 64}
    assert space_from_dict(data).stem_channels == 32


def test_channels_are_used_as_they_are() -> None:
    plain, narrow = load_space("proxyless"), load_space("proxyless:width=0.25")
    given = load_space("proxyless:channels=[8,8,8,16,24,24,48,80,320]")
    assert given.layers == narrow.layers != plain.layers
    assert (given.stem_channels, given.head_channels) == (8, 320)
    odd = load_space("proxyless:channels=[3,5,7,11,13,17,19,23,29],divisor=8")
    assert (odd.stem_channels, odd.head_channels) == (3, 29)
    counts = zip((5, 7, 11, 13, 17, 19, 23), (1, 4, 4, 4, 4, 4, 1), strict=True)
    assert [b.out_channels for b in odd.layers] == [c for c, n in counts for _ in range(n)]
    assert space_from_dict(odd.to_dict()).layers == odd.layers


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("channels=[8,8]", "channels [8, 8]: must be 9 numbers, of the stem, 7 stages and the"),
        ("channels=[8,8,8,8,8,8,8,8,8],width=0.5", "width 0.5 must be 1 where channels are given"),
        ("channels=[8,8,8,8,0,8,8,8,8]", "channels.4: "),
        ("channels=[8,8,8,8,8.5,8,8,8,8]", "channels.4: "),
        ("channels=8", "channels: "),
        ("residual_across_stages=maybe", "residual_across_stages: "),
    ],
)
def test_bad_channels_are_refused(override: str, message: str) -> None:
    with pytest.raises(BadInput) as error:
        load_space(f"proxyless:{override}")
    assert f"space proxyless:{override}: " in str(error.value)
    assert message in str(error.value)


def test_the_first_block_of_a_stage_may_be_without_a_residual() -> None:
    """Stages 1 and 5 of ProxylessNAS at a quarter of the width keep 8 and 24 channels."""
    space = load_space("proxyless:width=0.25")
    kept = [b for b in space.layers if b.keeps_shape]
    odd = [b for b in kept if not b.adds_input]
    assert [(b.name, b.in_channels) for b in odd] == [("fixed layer 1", 8), ("block 13", 24)]
    assert IDENTITY in odd[1].candidates
    everywhere = load_space("proxyless:width=0.25,residual_across_stages=true")
    assert all(b.adds_input == b.keeps_shape for b in everywhere.layers)


def test_inline_overrides_replace_keys_and_are_part_of_the_name() -> None:
    space = load_space("s1:width=0.25,candidates.max_paths=2,head.dropout=0.1")
    assert space.name == "s1:width=0.25,candidates.max_paths=2,head.dropout=0.1"
    assert (space.spec.width, space.spec.candidates.max_paths) == (0.25, 2)  # type: ignore[union-attr]
    assert space.spec.head.dropout == 0.1
    assert load_space("s1").spec.width == 1


def test_inline_overrides_of_a_file(tmp_path: Path, mixed_data: dict[str, Any]) -> None:
    space = load_space(write(tmp_path, mixed_data) + ":resolution=24")
    assert (space.name, space.resolution) == ("mixed:resolution=24", 24)


def test_plain_data_gives_the_same_space_back(small_space: Space, mixed_space: Space) -> None:
    for space in (small_space, mixed_space):
        again = space_from_dict(space.to_dict())
        assert again.spec == space.spec
        assert again.layers == space.layers
        assert again.name == space.name
    assert space_from_dict(yaml.safe_load(yaml.safe_dump(small_space.to_dict()))).layers


def test_spaces_written_before_a_key_was_added_get_its_default(small_space: Space) -> None:
    data = small_space.to_dict() | {"path_activation": "each"}
    old = {key: value for key, value in data.items() if key != "path_activation"}
    assert with_defaults(old, Path("run.json")) == data
    for damaged in ({**old, "width": "wide"}, 3):
        with pytest.raises(BadInput, match=r"^run\.json: space: "):
            with_defaults(damaged, Path("run.json"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("e6k357", "e6k7"), ("e3k35.57.39", "e3k5.7.9"), ("e3k3", "e3k3"), ("id", "id")],
)
def test_linear_paths_fold_into_one_of_the_largest_kernel(text: str, expected: str) -> None:
    for reference, result in (("s1", text), ("s1:path_activation=after_sum", expected)):
        block = load_space(reference).blocks[1]
        assert str(block.folded(Candidate.parse(text))) == result


def test_an_unknown_space_is_answered_with_the_known_ones() -> None:
    with pytest.raises(BadInput) as error:
        load_space("s9")
    assert "'s9'" in str(error.value)
    assert all(name in str(error.value) for name in list_spaces())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("widht=2", "widht: "),
        ("stem.width=2", "stem.width: "),
        ("width", "override 'width' must be key=value"),
        ("width=wide", "width: "),
        ("width=0", "width: "),
        ("resolution=0", "resolution: "),
        ("num_classes=1", "num_classes: "),
        ("activation=gelu", "activation: "),
        ("path_activation=both", "path_activation: Input should be 'each' or 'after_sum'"),
        ("a.b=1", "override 'a.b': 'a' is not a section"),
        ("stem.channels.x=1", "'channels' is not a section"),
        ("candidates.max_paths=5", "max_paths 5 is more than the 4 kernels"),
        ("candidates.max_paths=0", "max_paths: "),
        ("candidates=[]", "candidates [] must be distinct, not empty"),
        ("candidates.groups=2", "groups > 1 take one kernel each: max_paths must be 1"),
        (
            "candidates.kernels=[3],candidates.max_paths=1,candidates.groups=16,"
            "candidates.expansions=[1],stem.channels=8",
            "block 1 has 8 hidden channels at its smallest expansion; its 16 channel groups",
        ),
    ],
)
def test_a_bad_override_is_refused_with_space_and_key(override: str, message: str) -> None:
    with pytest.raises(BadInput) as error:
        load_space(f"s1:{override}")
    assert f"space s1:{override}: " in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", ["max_paths=5", "groups=2", "max_paths=0", "speed=1"])
def test_a_bad_key_of_the_candidates_is_named_as_the_user_wrote_it(value: str) -> None:
    with pytest.raises(BadInput, match=r": candidates(\.\w+)?: ") as error:
        load_space(f"s1:candidates.{value}")
    assert "ProductSpec" not in str(error.value)  # a class of ours is no word of the user's


@pytest.mark.parametrize("override", ["width=[", "candidates.kernels=[3, 5", "stem={a", "width='"])
def test_an_override_that_is_not_yaml_is_refused(override: str) -> None:
    with pytest.raises(BadInput):
        load_space(f"s1:{override}")


CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"speed": 3}, "speed: "),
    ({"stages": []}, "stages: "),
    ({"stages": [{"channels": 8}, {"channels": 8, "stride": 3}]}, "stages.1.stride: "),
    ({"stages": [{"channels": 8, "kernel": 3}]}, "stages.0.kernel: "),
    ({"stages": [{"channels": 8, "fixed": "e3k3"}]}, "every stage is fixed"),
    ({"stages": [{"channels": 8, "fixed": "e3k4"}, {"channels": 8}]}, "'e3k4' is not a candidate"),
    ({"candidates": ["id", "e3k2"]}, "'e3k2' is not a candidate"),
    ({"candidates": ["id", "e3k3", "id"]}, "must be distinct"),
    ({"candidates": []}, "not empty"),
    ({"candidates": {"expansions": [6, 3], "kernels": [3]}}, "expansions [6, 3] must be ascending"),
    ({"candidates": {"expansions": [3], "kernels": [5, 3]}}, "kernels [5, 3] must be ascending"),
    ({"candidates": {"expansions": [3], "kernels": [3, 3]}}, "kernels [3, 3] must be ascending"),
    ({"candidates": {"expansions": [], "kernels": [3]}}, "expansions: "),
    ({"candidates": {"expansions": [3], "kernels": [4]}}, "kernels.0: "),
    ({"head": {"channels": 8, "dropout": 1}}, "head.dropout: "),
    ({"in_channels": 0}, "in_channels: "),
]


@pytest.mark.parametrize(("change", "message"), CHANGES, ids=[m for _, m in CHANGES])
def test_a_bad_yaml_file_is_refused_with_the_key(
    change: dict[str, Any], message: str, tmp_path: Path, mixed_data: dict[str, Any]
) -> None:
    reference = write(tmp_path, mixed_data | change)
    with pytest.raises(BadInput) as error:
        load_space(reference)
    assert message in str(error.value)
    assert reference in str(error.value)


def test_a_list_of_candidates_with_different_numbers_of_channel_groups_is_refused(
    mixed_data: dict[str, Any],
) -> None:
    """No block can hold them, and the fair sampler takes these for a full product."""
    mixed_data["candidates"] = ["e3k3", "e3k5", "e3k3.5", "e3k5.3"]
    with pytest.raises(BadInput, match="group"):
        space_from_dict(mixed_data)


def test_a_missing_key_is_named(tmp_path: Path, mixed_data: dict[str, Any]) -> None:
    del mixed_data["head"]
    with pytest.raises(BadInput, match="head: "):
        load_space(write(tmp_path, mixed_data))


@pytest.mark.parametrize("text", ["stages: [", "a: b: c", "\t- x", "name: 'x"])
def test_a_file_that_is_not_yaml_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"space\.yaml is not YAML: .*line 1") as error:
        load_space(write(tmp_path, text))
    assert "\n" not in str(error.value)


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(BadInput, match="is not YAML"):
        load_space(str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "name: Field required"),
        ("- a\n- b\n", "must hold a mapping"),
        ("3\n", "must hold a mapping"),
    ],
)
def test_a_file_without_keys_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=message):
        load_space(write(tmp_path, text))
