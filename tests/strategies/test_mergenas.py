"""MergeNAS: the paths of blocks, what they say of candidates, and what it refuses."""

from typing import Any

import pytest
import torch
from searched import CELLS
from toys import ImageBatches, Steps, configured, saved_bytes

from mobilenas.base.errors import BadInput
from mobilenas.base.randomness import Stream
from mobilenas.cost.edge_model import costs_of
from mobilenas.nn.edge_cells import MixedEdge
from mobilenas.nn.edge_ops import build_op
from mobilenas.nn.merged import MergedEdge
from mobilenas.space import Arch, EdgeCellSpace, load_listed_space
from mobilenas.strategies.mergenas import MergeNas
from mobilenas.strategies.searchable import Searchable

LINEAR = "digits:width=0.5,resolution=8,path_activation=after_sum"  # up to two of three paths
SINGLE = "digits:width=0.5,resolution=8,candidates.max_paths=1"


def made(reference: str, **settings: Any) -> tuple[MergeNas, Searchable]:
    searchable = Searchable(costs_of(load_listed_space(reference)))
    config = configured(MergeNas, **settings)
    MergeNas.check(searchable, config)
    return MergeNas(searchable.choices, config, seed=0), searchable


def stepping(strategy: MergeNas, searchable: Searchable) -> Steps:
    module = strategy.supernet(searchable, strategy.config, torch.Generator().manual_seed(0))
    return Steps(module, strategy.config, ImageBatches, space=searchable.space)


def test_a_parameter_for_each_path_and_a_probability_for_each_subset() -> None:
    strategy, searchable = made(LINEAR)
    assert [len(alpha) for alpha in strategy.parameters] == [6] * 6
    with torch.no_grad():
        for alpha in strategy.parameters:
            alpha.copy_(torch.tensor([0.3, 0.2, 0.1, 0.1, 0.2, 0.1]).log())
    names = searchable.choices.ops[0].candidates
    found = dict(zip(names, strategy.probabilities()[0].tolist(), strict=True))
    # A path is alone once and in two pairs, so all candidates have three times the mass of paths.
    for name, worth in (("e3k3", 0.3), ("e3k35", 0.5), ("e6k57", 0.3), ("e6k3", 0.1)):
        assert found[name] == pytest.approx(worth / 3)
    assert sum(found.values()) == pytest.approx(1)
    arch = strategy.derive(searchable, {})
    assert str(arch) == "_".join(["e3k35"] * 6)  # the two strongest paths of one expansion


def test_single_paths_are_the_candidates() -> None:
    strategy, _ = made(SINGLE)
    for p, alpha in zip(strategy.probabilities(), strategy.parameters, strict=True):
        torch.testing.assert_close(p, alpha.softmax(0))


@pytest.mark.parametrize("reference", [LINEAR, SINGLE, CELLS])
def test_a_search_moves_all_parameters_and_derives_within_limits(reference: str) -> None:
    strategy, searchable = made(reference)
    steps = stepping(strategy, searchable)
    before = [alpha.detach().clone() for alpha in strategy.parameters]
    for n in range(3):
        strategy.step(steps(n))
    assert all((alpha != old).all() for alpha, old in zip(strategy.parameters, before, strict=True))
    costs = searchable.costs
    limit = costs.range("flops").median
    arch = strategy.derive(searchable, {"flops": limit})
    assert arch is not None and costs.of(arch)["flops"] <= limit  # type: ignore[arg-type]


def test_a_derived_arch_has_the_norms_that_were_searched() -> None:
    """One norm for all numbers of paths: a merged forward has no number."""
    strategy, searchable = made(LINEAR)
    steps = stepping(strategy, searchable)
    strategy.step(steps(0))
    module = steps.trainer.module
    arch = strategy.derive(searchable, {})
    assert isinstance(arch, Arch)
    module.zero_grad(set_to_none=True)
    images, _ = ImageBatches(3)(0)
    module(images, arch).square().sum().backward()
    trained = {name: p.grad for name, p in module.named_parameters() if ".after_sum." in name}
    assert trained and all(".after_sum.0." in name for name in trained)
    module.zero_grad(set_to_none=True)
    views = strategy.views(steps(0), Stream.ARCH_STEP)
    module(images, views).square().sum().backward()
    searched = {
        n for n, p in module.named_parameters() if ".after_sum." in n and p.grad is not None
    }
    assert {name for name, grad in trained.items() if grad is not None} <= searched


def test_two_levels_are_an_option_of_cells() -> None:
    flat, searchable = made(CELLS)
    two, _ = made(CELLS, two_level=True)
    modules = [stepping(each, searchable).trainer.module for each in (flat, two)]
    assert [m.merged for m in modules] == ["flat", "two_level"]
    images, _ = ImageBatches(3)(0)
    views = searchable.placed(flat.views(stepping(flat, searchable)(0), Stream.ARCH_STEP))
    assert not torch.equal(*(m(images, views) for m in modules))


def test_what_a_merged_edge_of_darts_keeps_for_backward() -> None:
    """Of maps as large as the input: it, its ReLU, behind each convolution 1; of the max pool the
    indices, 2; of both pools their outputs before and behind the norm, 4; the zeros. Dense has 30.
    """
    space = load_listed_space("darts")
    assert isinstance(space, EdgeCellSpace)
    x = torch.randn(8, 16, 32, 32, requires_grad=True)
    view = dict(enumerate(torch.full((8,), 1 / 8, requires_grad=True).unbind()))
    ops = space.spec.ops
    dense = MixedEdge(build_op(op, 16, 1, False, True) for op in ops)
    merged = MergedEdge(ops, 16, 1, True, False)
    kept = [saved_bytes(edge, x, view) / x.nbytes for edge in (dense, merged)]
    assert kept == [pytest.approx(30, rel=0.01), pytest.approx(11, rel=0.01)]


@pytest.mark.parametrize(
    "reference, words",
    [
        ("digits", "block 1|stage 1.*an activation each cannot be merged; take path_activation"),
        ("macro", "space macro: no choice has kernels that could be merged"),
        ("nb201:ops=[skip_connect,nor_conv_3x3]", "no choice has kernels that could be merged"),
        ("nb201:ops=[nor_conv_3x3,sep_conv_3x3]", "nor_conv_3x3, sep_conv_3x3 cannot be merged"),
        (
            "digits:candidates=[e3k3,e3k5,e3k37],path_activation=after_sum",
            "there is no candidate e3k7",
        ),
        ("digits:candidates.groups=2,candidates.max_paths=1", "one channel group"),
    ],
)
def test_what_has_no_kernels_to_merge_is_refused(reference: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        made(reference)


def test_a_space_that_lacks_subsets_is_taken_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made("digits:candidates=[e3k3,e3k5,e3k7,e3k37],path_activation=after_sum")
    assert "no candidate e3k35; mergenas learns what paths are worth" in caplog.text
