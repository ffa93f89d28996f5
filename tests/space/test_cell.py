"""Cells: their names, which of them are equal, how they are drawn; the space around them."""

import json
from collections import Counter
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mobilenas.base.errors import BadInput
from mobilenas.space import (
    Cell,
    CellSpace,
    Space,
    any_space_from_dict,
    list_cell_spaces,
    list_spaces,
    load_any_space,
    load_space,
    space_from_dict,
)

OPS = ("c1", "c3", "mp")
CELLS = st.lists(st.sampled_from((*OPS, "none")), min_size=1, max_size=4).filter(
    lambda ops: set(ops) != {"none"}
)


def nb101(overrides: str = "") -> CellSpace:
    space = load_any_space(f"nb101:{overrides}" if overrides else "nb101")
    assert isinstance(space, CellSpace)
    return space


def labelled(max_paths: int) -> list[Cell]:
    """Every assignment of an op or nothing to the nodes, but the empty one."""
    every = product((*OPS, "none"), repeat=max_paths)
    return [Cell(ops) for ops in every if set(ops) != {"none"}]


# --- names --------------------------------------------------------------------------------------


@given(CELLS)
def test_the_text_form_is_a_name(ops: list[str]) -> None:
    cell = Cell(tuple(ops))
    assert nb101().parse(str(cell)) == cell
    assert nb101().parse(f" {'.'.join(ops)}\n") == cell
    assert cell.num_paths == sum(op != "none" for op in ops)


def test_absent_nodes_at_the_end_are_not_named() -> None:
    assert str(Cell(("c3", "none", "mp", "none"))) == "c3.none.mp"
    assert {Cell(("c3", "none")), Cell(("c3",))} == {Cell(("c3",))}


@given(CELLS)
def test_canonical_is_one_name_for_all_orders(ops: list[str]) -> None:
    space = nb101()
    canonical = space.canonical(Cell(tuple(ops)))
    assert {space.canonical(Cell(order)) for order in permutations(ops)} == {canonical}
    assert space.canonical(canonical) == canonical
    assert canonical.ops == canonical.present
    assert Counter(canonical.ops) == Counter(op for op in ops if op != "none")


@pytest.mark.parametrize(("max_paths", "distinct"), [(1, 3), (2, 9), (3, 19), (4, 34)])
def test_number_of_archs(max_paths: int, distinct: int) -> None:
    space = nb101(f"max_paths={max_paths}")
    every = labelled(max_paths)
    assert space.num_archs == len(every) == len(set(every)) == 4**max_paths - 1
    assert len(space.distinct()) == distinct
    assert set(space.distinct()) == {space.canonical(cell) for cell in every}


def test_equal_cells_are_those_of_the_benchmark(data_root: Path) -> None:
    """Its graph hash tells cells apart; it also counts the names of each."""
    text = (data_root / "nas_bench_101" / "mixpath_subset.json").read_text(encoding="utf-8")
    names = {"conv1x1-bn-relu": "c1", "conv3x3-bn-relu": "c3", "maxpool3x3": "mp"}
    published = {
        nb101().canonical(Cell(tuple(names[op] for op in row["ops"]))): row["n_labelled_variants"]
        for row in json.loads(text)["cells"]
    }
    assert Counter(nb101().canonical(cell) for cell in labelled(4)) == published


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("c3.c5", "node 2: 'c5' is none of c1, c3, mp and none"),
        ("", "node 1: '' is none of"),
        ("c3..mp", "node 2: '' is none of"),
        ("none.none", "has no node"),
        ("c1.c1.c1.c1.c1", "has 5 nodes, space nb101 has 4"),
        ("e3k3_e6k5", "'e3k3_e6k5' is none of"),
    ],
)
def test_bad_names(text: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        nb101().parse(text)


def test_a_cell_of_a_larger_space_has_no_canonical_name() -> None:
    with pytest.raises(BadInput, match=r"cell c1\.none\.c3 has 3 nodes"):
        nb101("max_paths=2").canonical(Cell(("c1", "none", "c3")))


# --- drawing ------------------------------------------------------------------------------------


def test_cells_are_drawn_as_mixpath_does() -> None:
    """Number of nodes uniform, then the nodes, then each op: within five standard deviations."""
    space, rng, n = nb101(), np.random.default_rng(0), 6000
    drawn = [space.sample(rng) for _ in range(n)]
    assert all(space.parse(str(cell)) == cell for cell in drawn[:200])

    def check(counts: Counter[Any], shares: dict[Any, float], total: int) -> None:
        assert counts.keys() == shares.keys()
        for key, share in shares.items():
            spread = (total * share * (1 - share)) ** 0.5
            assert abs(counts[key] - total * share) < 5 * spread, key

    check(Counter(cell.num_paths for cell in drawn), dict.fromkeys(range(1, 5), 0.25), n)
    pairs = [cell for cell in drawn if cell.num_paths == 2]
    nodes = [tuple(i for i, op in enumerate(cell.ops) if op != "none") for cell in pairs]
    two = {(i, j): 1 / 6 for i in range(4) for j in range(i + 1, 4)}
    check(Counter(nodes), two, len(pairs))
    ops = [op for cell in drawn for op in cell.present]
    check(Counter(ops), dict.fromkeys(OPS, 1 / 3), len(ops))
    both = Counter(cell.present for cell in pairs)
    check(both, dict.fromkeys(product(OPS, repeat=2), 1 / 9), len(pairs))


# --- the space ----------------------------------------------------------------------------------


def test_repetitions_of_the_cell() -> None:
    shapes = nb101().shapes
    assert [s.out_channels for s in shapes] == [128] * 3 + [256] * 3 + [512] * 3
    assert [s.in_channels for s in shapes] == [128] * 4 + [256] * 3 + [512] * 2
    assert [s.size for s in shapes] == [32] * 3 + [16] * 3 + [8] * 3
    assert [i for i, s in enumerate(shapes) if s.pooled] == [3, 6]


def test_overrides_name_the_space_and_survive_plain_data() -> None:
    space = nb101("channels=16,max_paths=3,cells=2")
    assert space.name == "nb101:channels=16,max_paths=3,cells=2"
    assert (space.max_paths, len(space.shapes), space.shapes[-1].out_channels) == (3, 6, 64)
    again = any_space_from_dict(json.loads(json.dumps(space.to_dict())))
    assert isinstance(again, CellSpace)
    assert (again.spec, again.shapes) == (space.spec, space.shapes)


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"name": "mine", "description": "x", "stacks": 1, "cells": 2}))
    space = load_any_space(f"{path}:num_classes=5")
    assert isinstance(space, CellSpace)
    assert (len(space.shapes), space.num_classes) == (2, 5)


def test_spaces_of_blocks_and_of_cells_are_kept_apart() -> None:
    assert list_cell_spaces() == ["darts", "nb101", "nb201"]
    assert not set(list_cell_spaces()) & set(list_spaces())
    assert isinstance(load_any_space("s1"), Space)
    for load in (lambda: load_space("nb101"), lambda: space_from_dict(nb101().to_dict())):
        with pytest.raises(BadInput, match="nb101 is a space of cells"):
            load()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("max_paths=5", "max_paths: Input should be less than or equal to 4"),
        ("cells=0", "cells: Input should be greater"),
        ("width=2", "width: there is no such key"),
        ("channels=wide", "channels: Input should be a valid integer"),
        ("resolution=3", "resolution 3 is less than 4"),
        ("spec.channels=8", "'spec' is not a section"),
    ],
)
def test_bad_overrides_name_space_and_key(overrides: str, words: str) -> None:
    with pytest.raises(BadInput, match=f"space nb101:{overrides}: .*{words}"):
        nb101(overrides)


def test_blocks_do_not_take_the_keys_of_cells() -> None:
    with pytest.raises(BadInput, match="space s1:cells=3: cells: there is no such key"):
        load_any_space("s1:cells=3")
