"""Cells whose edges have ops: text forms, which are published ones, and the spaces around them."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from genotypes import DARTS_V1, DARTS_V2, PUBLISHED
from hypothesis import given
from hypothesis import strategies as st

from mobilenas.base.errors import BadInput
from mobilenas.space import (
    EdgeCellSpace,
    Genotype,
    any_space_from_dict,
    listed_space_from_dict,
    load_any_space,
    load_listed_space,
    load_space,
    space_from_dict,
)

NB201_OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
RESNET_LIKE = (
    "|nor_conv_3x3~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|"
)


def load(reference: str) -> EdgeCellSpace:
    space = load_listed_space(reference)
    assert isinstance(space, EdgeCellSpace)
    return space


NB201, DARTS = load("nb201"), load("darts")


# --- text forms ---------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(NB201_OPS), min_size=6, max_size=6))
def test_the_string_of_nas_bench_201(ops: list[str]) -> None:
    a, b, c, d, e, f = ops
    text = f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|"
    genotype = NB201.parse(text)
    assert str(genotype) == text
    assert NB201.encode(genotype).tolist() == [NB201_OPS.index(op) for op in ops]
    assert NB201.decode(NB201.encode(genotype)) == genotype
    assert NB201.parse(f" {text}\n") == genotype == NB201.canonical(genotype)


@given(st.integers(0, 2**32 - 1))
def test_the_genotype_of_darts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    genotype = DARTS.sample(rng)
    assert DARTS.parse(str(genotype)) == genotype
    assert DARTS.decode(DARTS.encode(genotype)) == genotype
    # The order of a node's two edges says nothing.
    turned = Genotype(tuple(tuple(node[::-1] for node in nodes) for nodes in genotype.cells))
    assert turned == genotype
    assert str(turned) == str(genotype)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_genotypes(name: str) -> None:
    """Read, written and read by Python as their authors do."""
    read = DARTS.parse(PUBLISHED[name])
    assert DARTS.parse(str(read)) == read
    fields = {"Genotype": dict, "range": lambda *limits: list(range(*limits))}
    published, written = (eval(text, fields) for text in (PUBLISHED[name], str(read)))
    for kind in ("normal", "reduce"):
        assert written[f"{kind}_concat"] == published[f"{kind}_concat"]
        for start in range(0, 8, 2):
            node = slice(start, start + 2)
            assert sorted(written[kind][node]) == sorted(published[kind][node])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must be the edges into a node, as"),
        ("e3k3_e6k5", "must be the edges into a node"),
        ("|skip_connect~0|", "cell has 1 nodes, space nb201 has 3"),
        (RESNET_LIKE.replace("~2", "~two"), "must be the edges into a node"),
        (RESNET_LIKE.replace("~2", "~" + 5000 * "2"), "must be the edges into a node"),
        (RESNET_LIKE.replace("~2", "~3"), r"node 3 has edges from \[0, 1, 3\]; must be 3 diff"),
        (RESNET_LIKE.replace("~2", "~1"), r"node 3 has edges from \[0, 1, 1\]"),
        (RESNET_LIKE.replace("none", "sep_conv_3x3"), "edge 0-2: 'sep_conv_3x3' is none of none"),
        (DARTS_V1, "genotype has 2 types of cells, space nb201 1"),
    ],
)
def test_bad_strings_of_nas_bench_201(text: str, words: str) -> None:
    with pytest.raises(BadInput, match=words) as error:
        NB201.parse(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (RESNET_LIKE, "genotype has 1 types of cells, space darts 2"),
        ("Genotype(", "genotype must be Genotype"),
        ("Genotype([1])", "genotype must be Genotype"),
        ("Genotype(normal=open('x'))", "genotype must be Genotype"),
        ("Genotype(normal=[])", "genotype: normal_concat: Field required"),
        (DARTS_V2.replace("'dil_conv_3x3', 2", "'dil_conv_3x3', 'a'"), r"normal\.7\.1: "),
        (DARTS_V2.replace("('dil_conv_3x3', 2)", ""), "normal has 7 edges"),
        (DARTS_V2.replace("[2, 3, 4, 5], reduce=", "[4, 5], reduce="), "normal_concat .* all nod"),
        (DARTS_V2.replace("dil_conv_3x3", "none"), "normal edge 2-5: 'none' is none of max_pool"),
        (DARTS_V2.replace("'dil_conv_3x3', 2", "'dil_conv_3x3', 5"), "normal node 5 has edges fr"),
        (DARTS_V2.replace("'dil_conv_3x3', 2", "'dil_conv_3x3', 0"), "must be 2 different ones"),
        (DARTS_V2.replace("'dil_conv_3x3', 2", "'dil_conv_3x3', -1"), "must be 2 different ones"),
    ],
)
def test_bad_genotypes_of_darts(text: str, words: str) -> None:
    with pytest.raises(BadInput, match=words) as error:
        DARTS.parse(text)
    assert "\n" not in str(error.value)


# --- the spaces ---------------------------------------------------------------------------------


def test_numbers_of_archs() -> None:
    assert NB201.num_archs == 5**6
    assert load("nb201:ops=[skip_connect,nor_conv_3x3]").num_archs == 2**6
    per_cell = 7**8 * 1 * 3 * 6 * 10  # ops of the edges that are kept, pairs of inputs
    assert DARTS.num_archs == per_cell**2
    rng = np.random.default_rng(0)
    for overrides, per_type in (("nodes=1", 7**2), ("nodes=2,ops=[none,skip_connect]", 3)):
        small = load(f"darts:{overrides}")
        assert small.num_archs == per_type**2
        normal = {str(small.sample(rng).cells[0]) for _ in range(600)}
        assert len(normal) == per_type


def test_choices_are_ops_of_edges_and_inputs_of_nodes() -> None:
    names = ["edge 0-1", "edge 0-2", "edge 1-2", "edge 0-3", "edge 1-3", "edge 2-3"]
    assert [choice.name for choice in NB201.choices] == names
    assert {(choice.candidates, choice.taken) for choice in NB201.choices} == {(NB201_OPS, 1)}
    assert [node.name for node in NB201.inputs] == [f"inputs of node {n}" for n in (1, 2, 3)]
    assert [len(node.candidates) for node in NB201.inputs] == [1, 2, 3]
    assert [node.taken for node in NB201.inputs] == [1, 2, 3]
    assert (len(DARTS.choices), len(DARTS.inputs)) == (28, 8)
    assert DARTS.choices[14].name == "reduce edge 0-2"
    assert DARTS.inputs[4].candidates == ("0", "1")
    assert {node.taken for node in DARTS.inputs} == {2}
    for space in (NB201, DARTS):
        genotype = space.sample(np.random.default_rng(0))
        assert len(space.encode(genotype)) == len(space.choices)


def test_slots_name_choices_and_inputs_of_each_cell_in_turn() -> None:
    assert NB201.slots == [*range(9)] * 15
    space = load("darts:cells=8")
    kinds = [shape.kind for shape in space.shapes]
    assert kinds == [0, 0, 1, 0, 0, 1, 0, 0]
    of_kinds = [[*range(14), *range(28, 32)], [*range(14, 28), *range(32, 36)]]
    assert space.slots == [slot for kind in kinds for slot in of_kinds[kind]]


def test_shapes_of_the_cells() -> None:
    assert [(s.nodes.channels, s.nodes.size) for s in NB201.shapes] == (
        [(16, 32)] * 5 + [(32, 16)] * 5 + [(64, 8)] * 5
    )
    reductions = [i for i, shape in enumerate(DARTS.shapes) if shape.kind]
    assert reductions == [6, 13]
    assert [DARTS.shapes[6].stride(start) for start in range(5)] == [2, 2, 1, 1, 1]
    assert (DARTS.shapes[-1].output.channels, DARTS.shapes[-1].output.size) == (4 * 144, 8)
    imagenet = load("darts:skeleton=darts_imagenet,resolution=224,cells=14,channels=48")
    assert [features.size for features in imagenet.stem] == [56, 28]
    assert imagenet.shapes[-1].output.size == 7


def test_strongest_of_nas_bench_201_is_the_best_op_of_each_edge() -> None:
    scores = [np.eye(5)[op] for op in (3, 0, 1, 4, 2, 2)]
    assert NB201.encode(NB201.strongest(scores)).tolist() == [3, 0, 1, 4, 2, 2]
    assert NB201.encode(NB201.strongest(np.ones((6, 5)))).tolist() == [0] * 6


def test_strongest_of_darts_keeps_two_edges_of_each_node_and_never_none() -> None:
    scores = np.full((28, 8), 0.05)
    scores[9][[0, 4]] = 0.9, 0.6  # of the normal cell's edge 0-5 none, then sep_conv_3x3
    scores[12][7] = 0.5  # of its edge 3-5 dil_conv_5x5
    normal, reduce = DARTS.strongest(scores).cells
    assert normal[3] == (("sep_conv_3x3", 0), ("dil_conv_5x5", 3))
    assert normal[0] == (("max_pool_3x3", 0), ("max_pool_3x3", 1))
    assert reduce[3] == (("max_pool_3x3", 0), ("max_pool_3x3", 1))
    inputs = [np.ones(len(node.candidates)) for node in DARTS.inputs]
    inputs[3] = np.array([0.1, 0.2, 0.1, 0.9, 0.9])  # of the edges into the normal cell's node 5
    normal, _ = DARTS.strongest(scores, inputs).cells
    assert normal[3] == (("sep_conv_3x3", 0), ("dil_conv_5x5", 3))
    inputs[3][0] = 0.01
    normal, _ = DARTS.strongest(scores, inputs).cells
    assert normal[3] == (("dil_conv_5x5", 3), ("max_pool_3x3", 4))


def test_genotypes_are_drawn_uniformly() -> None:
    """Ops, and pairs of inputs: within five standard deviations."""
    rng, n = np.random.default_rng(0), 3000
    drawn = [DARTS.sample(rng).cells for _ in range(n)]
    pairs = Counter(tuple(start for _, start in normal[3]) for normal, _ in drawn)
    ops = Counter(reduce[0][1][0] for _, reduce in drawn)
    for counts, share in ((pairs, 1 / 10), (ops, 1 / 7)):
        assert len(counts) == round(1 / share)
        spread = (n * share * (1 - share)) ** 0.5
        assert all(abs(count - n * share) < 5 * spread for count in counts.values())


def test_plain_data_and_files_of_ones_own(tmp_path: Path) -> None:
    space = load("darts:channels=16,cells=8,ops=[none, skip_connect, sep_conv_3x3]")
    assert space.name.startswith("darts:channels=16")
    again = listed_space_from_dict(json.loads(json.dumps(space.to_dict())))
    assert isinstance(again, EdgeCellSpace)
    assert (again.spec, again.slots, again.shapes) == (space.spec, space.slots, space.shapes)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(space.to_dict()))
    assert load(f"{path}:num_classes=5").num_classes == 5


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("nb201:resolution=30", "resolution 30 must be a multiple of 4"),
        ("darts:skeleton=darts_imagenet,resolution=240", "multiple of 32"),
        ("darts:skeleton=darts_imagenet,resolution=224,channels=9", "channels 9 must be even"),
        ("darts:cells=2", "cells 2 must be 3 or more"),
        ("nb201:ops=[none]", r"ops \['none'\] must be distinct, one of them not none"),
        ("nb201:ops=[skip_connect,skip_connect]", "must be distinct"),
        ("nb201:ops=[conv]", r"ops\.0: Input should be 'none'"),
        ("nb201:width=2", "width: there is no such key"),
        ("nb201:channels=0", "channels: Input should be greater"),
    ],
)
def test_bad_overrides_name_space_and_key(reference: str, words: str) -> None:
    with pytest.raises(BadInput, match=words) as error:
        load_listed_space(reference)
    assert str(error.value).startswith(f"space {reference}: ")


def test_what_takes_blocks_or_cells_of_nodes_refuses_them() -> None:
    for refuse in (load_space, load_any_space):
        with pytest.raises(BadInput, match="nb201 is a space of cells whose edges have ops"):
            refuse("nb201")
    for refuse_data in (space_from_dict, any_space_from_dict):
        with pytest.raises(BadInput, match="darts is a space of cells whose edges have ops"):
            refuse_data(DARTS.to_dict())
