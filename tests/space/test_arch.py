"""The text form of archs: exact both ways, safe as a file name, and checked."""

import re
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilenas.base.errors import BadInput
from mobilenas.space import IDENTITY, Arch, Candidate, Space, list_spaces, load_space

SPACES = {name: load_space(name) for name in list_spaces()}
S1, S3, MACRO = SPACES["s1"], SPACES["s3"], SPACES["macro"]


def one_of(space: Space) -> st.SearchStrategy[tuple[Space, tuple[int, ...]]]:
    genes = st.tuples(*(st.integers(0, len(b.candidates) - 1) for b in space.blocks))
    return st.tuples(st.just(space), genes)


@given(st.sampled_from(list(SPACES.values())).flatmap(one_of))
def test_genes_and_text_give_the_same_arch_back(drawn: tuple[Space, tuple[int, ...]]) -> None:
    space, genes = drawn
    arch = space.decode(np.array(genes))
    assert tuple(space.encode(arch)) == genes
    assert space.parse(str(arch)) == arch == Arch.parse(str(arch))
    assert space.parse(f" {arch}\n") == arch
    assert all(Candidate.parse(str(block)) == block for block in arch.blocks)


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_candidates_of_a_block_have_distinct_names_that_are_safe_in_file_names(
    space: Space,
) -> None:
    for block in space.blocks:
        texts = [str(candidate) for candidate in block.candidates]
        # Distinct without regard to case too: some file systems have none.
        assert len({text.lower() for text in texts}) == len(texts)
        assert all(re.fullmatch(r"[a-z0-9][a-z0-9.]*", text) for text in texts)
    longest = Arch(tuple(max(b.candidates, key=lambda c: len(str(c))) for b in space.blocks))
    assert len(str(longest)) < 250  # file systems allow 255 bytes
    assert re.fullmatch(r"[a-z0-9][a-z0-9._]*", str(longest))


def test_text_form() -> None:
    arch = Arch((Candidate(3, ((3,),)), Candidate(6, ((3, 5),)), IDENTITY))
    assert str(arch) == "e3k3_e6k35_id"
    assert str(Candidate(3, ((3,), (5,), (7,), (9,)))) == "e3k3.5.7.9"
    assert Candidate.parse("e12k1357") == Candidate(12, ((1, 3, 5, 7),))
    assert (Candidate.parse("e6k359").num_paths, IDENTITY.num_paths) == (3, 0)
    assert len(arch) == 3


def test_archs_are_immutable_and_usable_as_keys() -> None:
    text = "_".join(["e3k3"] * 12)
    one, two = S1.parse(text), S1.parse(text)
    assert one is not two
    assert {one: "found"}[two] == "found"
    assert one != S1.parse("e6k3" + text[4:])
    with pytest.raises(FrozenInstanceError):
        one.blocks = ()  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        one.blocks[0].expansion = 6  # type: ignore[misc]


@pytest.mark.parametrize(
    ("space", "wrong", "reason"),
    [
        (S1, "", "'' is not a candidate: write e<expansion>k<kernels>, such as e6k35, or id"),
        (S1, "e3", "'e3' is not a candidate"),
        (S1, "k3", "'k3' is not a candidate"),
        (S1, "e0k3", "'e0k3' is not a candidate"),
        (S1, "e3k4", "'e3k4' is not a candidate"),
        (S1, "E3k3", "'E3k3' is not a candidate"),
        (S1, "e3k3.", "'e3k3.' is not a candidate"),
        (S1, "e3k3 ", "'e3k3 ' is not a candidate"),
        (S1, "e3k\u0663", "is not a candidate"),  # a digit, but not one of ours
        (S1, "e65k3", "'e65k3': the expansion is at most 64"),
        (S1, f"e{5000 * '1'}k3", "is not a candidate"),
        (S1, "e3k53", "'e3k53': kernels of a group are ascending and distinct"),
        (S1, "e3k33", "'e3k33': kernels of a group are ascending and distinct"),
        (S1, "e3k3.35", "'e3k3.35': every channel group has the same number of kernels"),
        (S1, "id", "the identity is not offered here"),
        (S1, "e4k3", "expansion 4 of e4k3 is not in [3, 6]"),
        (S1, "e3k3.5", "e3k3.5 has 2 channel groups, not 1"),
        (S1, "e3k1", "kernels [1] of e3k1 are not in [3, 5, 7, 9]"),
        (S3, "e3k3", "e3k3 has 1 channel groups, not 4"),
        (S3, "e3k35.35.35.35", "e3k35.35.35.35 has 2 paths, at most 1 are allowed"),
        (load_space("s1:candidates.max_paths=2"), "e3k357", "has 3 paths, at most 2 are allowed"),
        (MACRO, "e3k5", "e3k5 is not one of ['id', 'e3k3', 'e6k5']"),
    ],
)
@pytest.mark.parametrize("number", [2, 8])
def test_a_wrong_block_is_named_with_the_reason(
    space: Space, wrong: str, reason: str, number: int
) -> None:
    parts = str(space.decode(np.zeros(len(space.blocks), dtype=int))).split("_")
    parts[number - 1] = wrong
    with pytest.raises(BadInput) as error:
        space.parse("_".join(parts))
    assert f"block {number}: " in str(error.value)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("count", [1, 11, 13])
def test_a_wrong_number_of_blocks_is_refused(count: int) -> None:
    with pytest.raises(BadInput, match=rf"arch has {count} blocks, space s1 has 12"):
        S1.parse("_".join(["e3k3"] * count))


def test_an_arch_of_another_space_is_refused() -> None:
    with pytest.raises(BadInput, match="arch has 8 blocks, space s1 has 12"):
        S1.encode(MACRO.decode(np.zeros(8, dtype=int)))
