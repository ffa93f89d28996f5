"""DropNAS: what is dropped, what its steps move, and what they leave."""

from typing import Any

import numpy as np
import pytest
import torch
from searched import CELLS
from toys import ImageBatches, Steps, configured, snapshot

from mobilenas.base.randomness import Stream
from mobilenas.cost.edge_model import costs_of
from mobilenas.space import EdgeCellSpace, load_listed_space
from mobilenas.strategies.choices import Choices
from mobilenas.strategies.dropnas import DropNas, groups, left
from mobilenas.strategies.methods import load_search_config
from mobilenas.strategies.searchable import Searchable

P = 0.0740  # (3e-5) ** (1 / 4)


def made(reference: str = CELLS, **settings: Any) -> tuple[DropNas, Steps]:
    space = load_listed_space(reference)
    searchable = Searchable(costs_of(space))
    strategy = DropNas(searchable.choices, configured(DropNas, **settings), seed=0)
    module = strategy.supernet(searchable, strategy.config, torch.Generator().manual_seed(0))
    return strategy, Steps(module, strategy.config, ImageBatches, space=searchable.space)


def doubled(strategy: DropNas) -> None:
    for alpha in strategy.parameters:
        alpha.data = alpha.data.double()


@pytest.mark.parametrize("reference", ["nb201", "darts", "digits", "macro", "fairnas", "s1"])
def test_groups_leave_no_candidate_out(reference: str) -> None:
    for choice in Searchable(costs_of(load_listed_space(reference))).choices.ops:
        indices = sorted(index for group in groups(choice) for index in group)
        assert indices == list(range(len(choice.candidates)))
        named = [{choice.candidates[i] for i in group} for group in groups(choice)]
        if reference == "darts":
            assert {len(group) for group in named} == {4}
            assert {"none", "skip_connect", "avg_pool_3x3", "max_pool_3x3"} in named
        if reference == "nb201":
            assert {"nor_conv_1x1", "nor_conv_3x3"} in named and len(named) == 2
        if reference == "fairnas":
            kinds = [{name.partition("k")[0] for name in group} for group in named]
            assert all(len(kind) == 1 for kind in kinds) and len(kinds) >= 2


@pytest.mark.parametrize(("drop", "sizes"), [(P, (4, 4)), (0.9, (3, 2))])
def test_candidates_are_dropped_as_often_as_is_said_and_never_a_whole_group(
    drop: float, sizes: tuple[int, int]
) -> None:
    """A group that would be empty is drawn again: the rate is (p - p^n) / (1 - p^n)."""
    rng = np.random.default_rng(0)
    indices = iter(range(sum(sizes)))
    each = [[next(indices) for _ in range(size)] for size in sizes]
    draws = 50_000 if drop == P else 5_000
    counts = np.zeros(sum(sizes))
    for _ in range(draws):
        kept = left(each, drop, rng)
        assert min(kept) < sizes[0] <= max(kept)  # of both groups
        counts[kept] += 1
    for group, size in zip(each, sizes, strict=True):
        rate = (drop - drop**size) / (1 - drop**size)
        spread = (rate * (1 - rate) / draws) ** 0.5
        assert np.all(np.abs(1 - counts[group] / draws - rate) < 4 * spread)
    if drop == P:
        assert abs(1 - counts.mean() / draws - 0.0740) < 3 * spread / 8**0.5


def test_the_published_rate_is_that_of_the_recipe() -> None:
    assert load_search_config("dropnas", None, []).drop == pytest.approx(P, abs=1e-4)  # type: ignore[attr-defined]


def test_what_is_alone_in_its_group_stays() -> None:
    strategy, _ = made("macro:width=0.25,resolution=8", drop=0.9)  # id, e3k3, e6k5
    assert all(len(kept) == 3 for kept in strategy.kept(np.random.default_rng(0)))


def test_one_draw_serves_a_step_and_all_cells_of_a_type() -> None:
    strategy, steps = made("nb201:channels=4,cells=2,resolution=8", drop=0.4)
    seen: list[Any] = []
    forward = steps.trainer.module.forward
    steps.trainer.module.forward = lambda x, views: seen.append(views) or forward(x, views)  # type: ignore[func-returns-value,method-assign]
    strategy.step(steps(3))
    (views,) = seen
    space = steps.searchable.space
    assert isinstance(space, EdgeCellSpace)
    kept = [sorted(view) for view in views[:6]]
    cell = len(space.edges) + len(space.nodes)
    assert all(
        kept == [sorted(view) for view in views[first : first + 6]]
        for first in range(0, len(views), cell)
    )
    again, other = made("nb201:channels=4,cells=2,resolution=8", drop=0.4)
    again.step(other(3))
    streams = [strategy.kept(steps(n).rng(Stream.WEIGHT_STEP)) for n in (3, 3, 4)]
    assert [k.tolist() for k in streams[0]] == [k.tolist() for k in streams[1]] == kept
    assert [k.tolist() for k in streams[0]] != [k.tolist() for k in streams[2]]


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_together_the_kept_ones_stay_as_probable_and_the_dropped_ones_do_not_move(
    decay: float,
) -> None:
    strategy, steps = made(drop=0.4, arch_weight_decay=decay)
    doubled(strategy)
    for n in range(6):
        before = [p.detach().clone() for p in strategy.probabilities()]
        kept = strategy.kept(steps(n).rng(Stream.WEIGHT_STEP))
        strategy.step(steps(n))
        moved = False
        for p, old, k in zip(strategy.probabilities(), before, kept, strict=True):
            dropped = [i for i in range(5) if i not in k.tolist()]
            difference = (p - old).detach()
            assert float(difference[k].sum().abs()) < 1e-12
            assert float(difference[dropped].abs().sum()) < 1e-12
            moved |= not torch.equal(p[k], old[k])
        assert moved


def test_decay_moves_what_was_kept_by_twice_what_an_optimizer_does() -> None:
    settings: dict[str, Any] = {"drop": 0.4, "arch_weight_decay": 0.0, "momentum": 0.0, "lr": 0.1}
    moved = []
    for decay in (0.0, 0.01):
        strategy, steps = made(weight_decay=decay, clip=None, **settings)
        module = steps.trainer.module
        before = snapshot(module)
        strategy.step(steps(0))
        moved.append(dict(module.named_parameters()))
        idle = [name for name, p in module.named_parameters() if p.grad is None]
        for name, p in module.named_parameters():
            if decay and name in idle:
                assert torch.equal(p, before[name]), name
        groups = steps.trainer.optimizer.param_groups
        assert {group["weight_decay"] for group in groups} == {decay}  # as it was
    assert idle and all(".edges." in name for name in idle)
    plain, decayed = moved
    for name, weight in plain.items():
        factor = 1.0 if name in idle else 1 - 2 * 0.1 * 0.01
        torch.testing.assert_close(decayed[name], factor * weight, rtol=1e-5, atol=1e-7)


def test_what_was_dropped_does_not_move_by_momentum() -> None:
    strategy, steps = made(drop=0.4, weight_decay=0.01)
    for n in range(3):
        strategy.step(steps(n))
    module = steps.trainer.module
    before = snapshot(module)
    kept = strategy.kept(steps(3).rng(Stream.WEIGHT_STEP))
    strategy.step(steps(3))
    ran = {
        f"cells.{cell}.edges.{edge}.{op}."
        for cell in range(3)
        for edge, ops in enumerate(kept)
        for op in ops.tolist()
    }
    still = [
        name
        for name in before
        if ".edges." in name and not any(name.startswith(prefix) for prefix in ran)
    ]
    assert still
    state = module.state_dict()
    assert all(torch.equal(state[name], before[name]) for name in still)


def test_decay_alone_moves_the_architecture_while_weights_are_trained_first() -> None:
    for decay in (0.0, 0.01):
        strategy, steps = made(drop=0.0, arch_weight_decay=decay)
        before = [a.detach().clone() for a in strategy.parameters]
        strategy.fit(steps(0))
        for alpha, old in zip(strategy.parameters, before, strict=True):
            # The first step of Adam is one of its rate against the sign of the gradient, a little
            # less where that is tiny.
            change = alpha.detach() - old
            towards = -strategy.config.arch_lr * old.sign() * (change != 0)
            torch.testing.assert_close(change, towards, rtol=0, atol=5e-3)
            assert bool(change.any()) == bool(decay)


def test_one_forward_a_step_by_training_images_alone() -> None:
    strategy, steps = made(drop=0.0)
    steps.held = None
    step = steps(0)
    strategy.step(step)
    assert step.spent == 32 * 5
    assert strategy.config.held_out(50_000) == 32
    assert DropNas.Config(validate_images=100).held_out(50_000) == 100


def test_limits_enter_its_gradient_as_they_do_that_of_a_loss() -> None:
    """With form power the loss is multiplied, so its value has a part in the gradient."""
    for form in ("add", "power"):
        strategy, steps = made(drop=0.0, cost_form=form, cost_weight=0.3, arch_weight_decay=0.0)
        space = steps.searchable.space
        limits = Steps(torch.nn.Linear(1, 1), strategy.config, limits={"flops": 1e4}, space=space)  # type: ignore[arg-type]
        steps.cost = limits.cost
        step = steps(0)
        loss = step.loss([dict(enumerate(p.unbind())) for p in strategy.probabilities()], "train")
        loss = step.cost.loss(loss, strategy.probabilities())
        expected = step.gradient(loss, strategy.parameters)
        found: list[Any] = []
        strategy.apply = found.append  # type: ignore[method-assign,assignment]
        strategy.step(step)
        for one, other in zip(found[0], expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_a_choice_of_nothing_but_shortcuts_and_pools_is_one_group() -> None:
    space = load_listed_space("nb201:ops=[skip_connect,avg_pool_3x3]")
    assert isinstance(space, EdgeCellSpace)
    assert [groups(c) for c in Choices(tuple(space.choices)).ops] == [[[0, 1]]] * 6
