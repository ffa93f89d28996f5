"""Costs of a user's own beside the others."""

import numpy as np
import pytest

from mobilenas.base.errors import BadInput
from mobilenas.cost import BlockCosts, CostModel
from mobilenas.cost.budget import Budget
from mobilenas.cost.titles import format_cost, is_cost
from mobilenas.space import Space

NAME = "energy_mj@board"


def flops_again(space: Space, name: str = NAME) -> BlockCosts:
    """The FLOPs of a space as a cost of one's own, in thousands."""
    model, first = CostModel(space), np.zeros((1, len(space.blocks)), dtype=np.int64)
    start = model.batch("flops", first)[0]
    blocks = []
    for number, block in enumerate(space.blocks):
        genes = np.repeat(first, len(block.candidates), axis=0)
        genes[:, number] = np.arange(len(block.candidates))
        above = model.batch("flops", genes) - start + 10**6  # as no candidate costs less than 0
        names = map(str, block.candidates)
        blocks.append(dict(zip(names, (above / 1000).tolist(), strict=True)))
    return BlockCosts(name, blocks, start / 1000)


def test_it_is_summed_as_the_others_are(mixed_space: Space) -> None:
    own = flops_again(mixed_space)
    model = CostModel(mixed_space, own=[own])
    assert model.costs == ("flops", "params", "memory", NAME)
    genes = mixed_space.sample_genes(50, np.random.default_rng(0))
    differences = 1000 * model.batch(NAME, genes) - model.batch("flops", genes)
    np.testing.assert_allclose(differences, differences[0], rtol=1e-9)
    assert is_cost(NAME)
    assert format_cost(NAME, 1234.5678) == "1235"


def test_a_budget_takes_limits_of_it(mixed_space: Space) -> None:
    budget = Budget({NAME: 3.0}, own=(flops_again(mixed_space),))
    model, limits = budget.look_up(mixed_space)
    assert limits == {NAME: 3.0}
    model.check(NAME)
    assert bool(Budget(own=budget.own))


@pytest.mark.parametrize("name", ["energy", "@board", "energy_mj@", "latency_ms@board"])
def test_names_say_where_it_was_measured(mixed_space: Space, name: str) -> None:
    with pytest.raises(BadInput, match="must be QUANTITY_UNIT@DEVICE"):
        CostModel(mixed_space, own=[flops_again(mixed_space, name)])


def test_what_does_not_fit_the_space_is_named(mixed_space: Space) -> None:
    own = flops_again(mixed_space)
    for wrong, words in (
        (BlockCosts(NAME, own.blocks[1:]), "of 4 blocks, where mixed has 5"),
        (BlockCosts(NAME, [{}, *own.blocks[1:]]), r"block 1 \(.*\) lacks e2k3"),
        (BlockCosts(NAME, own.blocks, -1.0), "fixed: -1.0 must be a number of 0 or more"),
        (BlockCosts(NAME, own.blocks, float("nan")), "nan must be a number"),
    ):
        with pytest.raises(BadInput, match=words):
            CostModel(mixed_space, own=[wrong])
    with pytest.raises(BadInput, match="given twice"):
        CostModel(mixed_space, own=[own, own])
