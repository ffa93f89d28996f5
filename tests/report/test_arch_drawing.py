"""Drawings of archs: every choice is in them, with the geometry of the space."""

import numpy as np
import pytest

from mobilenas.base.errors import BadInput
from mobilenas.report.page.drawing import draw
from mobilenas.space import EdgeCellSpace, Space, load_listed_space, load_space


def test_every_block_is_drawn(small_space: Space) -> None:
    arch = small_space.sample(np.random.default_rng(1))
    drawing = draw(small_space, str(arch))
    assert "_".join(text for _, text in drawing["parts"]) == str(arch)
    assert len(drawing["blocks"]) == len(small_space.layers)
    for block, drawn in zip(small_space.layers, drawing["blocks"], strict=True):
        assert (drawn["in"], drawn["out"]) == (block.in_channels, block.out_channels)
        assert drawn["size"] == block.out_size


def test_linear_paths_are_drawn_as_what_they_fold_into() -> None:
    space = load_space("s1:path_activation=after_sum")
    arch = "_".join(["e3k35"] * len(space.blocks))
    drawn = draw(space, arch)["blocks"]
    assert next(block["kernels"] for block in drawn if block["searched"]) == [[5]]


@pytest.mark.parametrize(("name", "cells", "edges"), [("nb201", 1, 6), ("darts", 2, 8)])
def test_cells_are_graphs_of_all_their_edges(name: str, cells: int, edges: int) -> None:
    space = load_listed_space(name)
    assert isinstance(space, EdgeCellSpace)
    drawing = draw(space, str(space.sample(np.random.default_rng(0))))
    assert [len(cell["arcs"]) for cell in drawing["cells"]] == [edges] * cells
    assert len(drawing["parts"]) == edges * cells
    for cell in drawing["cells"]:
        for arc in cell["arcs"]:
            assert 0 < arc["y"] < cell["height"]
            assert 0 < arc["x"] < cell["width"]


def test_an_arch_of_another_space_is_refused() -> None:
    with pytest.raises(BadInput):
        draw(load_space("s1"), "e3k3")
