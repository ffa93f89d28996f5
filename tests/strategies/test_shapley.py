"""Shapley-NAS: its estimate against enumeration of all orders, and what the method makes of it."""

from collections.abc import Callable, Iterable, Sequence
from itertools import permutations
from math import factorial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_learned import in_space
from torch.nn.functional import one_hot
from toys import Steps, Toy, cells, choices, configured

from mobilenas.base.errors import BadInput
from mobilenas.base.randomness import Stream
from mobilenas.cost import CostModel
from mobilenas.nn.views import Views
from mobilenas.space import load_space
from mobilenas.strategies.choices import Choices
from mobilenas.strategies.methods import load_search_config
from mobilenas.strategies.score_log import ScoreLog
from mobilenas.strategies.search_step import SearchStep
from mobilenas.strategies.searchable import Searchable
from mobilenas.strategies.shapley import Shapley, removed

Game = Callable[[frozenset[int]], float]
PLAYERS = 6


def game(seed: int) -> Game:
    """Every set of players is worth something that is drawn."""
    drawn = np.random.default_rng(seed).random(1 << PLAYERS)
    return lambda players: float(drawn[sum(1 << i for i in players)])


class Scripted:
    """Draws the orders that it is given."""

    def __init__(self, orders: Iterable[Sequence[int]]) -> None:
        self._left = iter(orders)

    def permutation(self, count: int) -> Sequence[int]:
        order = next(self._left)
        assert len(order) == count
        return order


def estimate(worth: Game, orders: Sequence[Sequence[int]]) -> np.ndarray:
    """What the strategy says that each player is worth, (players,), where accuracy is a game. All
    players are candidates of one choice; one more, which is no player, comes last and stays.
    """
    strategy = Shapley(choices(PLAYERS + 1), configured(Shapley, truncate=0.0), seed=0)
    step = Steps(Toy(1), strategy.config)(0)

    def scores(several: Sequence[Views], batches: range, least: float) -> list[tuple[float, float]]:
        sets = [frozenset(views[0]) for views in several]  # type: ignore[arg-type]
        assert all(PLAYERS in each for each in sets)
        return [(0.0, worth(each - {PLAYERS})) for each in sets]

    step.scores = scores  # type: ignore[method-assign]
    rng: Any = Scripted([*order, PLAYERS] for order in orders)
    (found,) = strategy._estimated([strategy._order(step, n, rng) for n in range(len(orders))])
    assert found[PLAYERS] == 0
    return found[:PLAYERS].double().numpy()


def exact(worth: Game) -> np.ndarray:
    """Shapley values by their definition over sets."""
    found = np.zeros(PLAYERS)
    for mask in range(1 << PLAYERS):
        players = frozenset(i for i in range(PLAYERS) if mask >> i & 1)
        size = len(players)
        for i in set(range(PLAYERS)) - players:
            weight = factorial(size) * factorial(PLAYERS - size - 1) / factorial(PLAYERS)
            found[i] += weight * (worth(players | {i}) - worth(players))
    return found


ALL_ORDERS = [*permutations(range(PLAYERS))]
EVERYBODY = frozenset(range(PLAYERS))


def test_all_orders_are_the_exact_values() -> None:
    worth = game(0)
    found = estimate(worth, ALL_ORDERS)
    np.testing.assert_allclose(found, exact(worth), atol=1e-6)
    assert found.sum() == pytest.approx(worth(EVERYBODY) - worth(frozenset()))


def test_symmetric_players_null_players_and_sums_of_games() -> None:
    one, two = game(1), game(2)

    def alike(players: frozenset[int]) -> float:  # 0 and 1 count alike, 5 does nothing
        return one(frozenset(players & {2, 3, 4}) | frozenset(range(len(players & {0, 1}))))

    found = estimate(alike, ALL_ORDERS)
    assert found[0] == pytest.approx(found[1], abs=1e-6) and found[5] == pytest.approx(0, abs=1e-6)
    both = estimate(lambda players: 9 + 2 * one(players) - two(players), ALL_ORDERS)
    parts = 2 * estimate(one, ALL_ORDERS) - estimate(two, ALL_ORDERS)
    np.testing.assert_allclose(both, parts, atol=1e-6)


def test_one_order_is_enough_where_players_only_add() -> None:
    addends = np.random.default_rng(0).random(PLAYERS)
    for order in ALL_ORDERS[:5]:
        found = estimate(lambda players: float(sum(addends[i] for i in players)), [order])
        np.testing.assert_allclose(found, addends, atol=1e-6)
    # A pair that is worth something together only: half to each.
    pair = estimate(lambda players: float({0, 1} <= players), ALL_ORDERS)
    np.testing.assert_allclose(pair, [0.5, 0.5, 0, 0, 0, 0], atol=1e-6)


def test_an_order_is_over_where_too_little_is_left() -> None:
    strategy = Shapley(choices(3, 3, 3), configured(Shapley, truncate=0.5), seed=0)
    for accuracies, losses in (
        ([0.8, 0.7, 0.3, 0.35, 0.1], [0.1, 0.4]),
        ([0.8, 0.7, 0.6, 0.5, 0.45, 0.41, 0.4], [0.1, 0.1, 0.1, 0.05, 0.04, 0.01]),  # not less
    ):
        step, left = Steps(Toy(3), strategy.config)(0), iter(accuracies)
        step._scored = lambda several, batches, left=left: [(0.0, next(left)) for _ in several]  # type: ignore[misc]
        found = torch.cat(strategy._order(step, 0, np.random.default_rng(0)))
        assert sorted(found[found != 0].tolist()) == pytest.approx(sorted(losses))
        # To where it stopped; what comes after was not measured.
        assert float(found.sum()) == pytest.approx(accuracies[0] - accuracies[len(losses)])
        assert [*left] == accuracies[len(losses) + 1 :]


def test_the_images_of_an_order_are_prepared_once() -> None:
    strategy, steps = in_space("shapley", {"score_images": 64, "truncate": 0.01})
    step, made, asked = steps(0), steps.held, list[int]()
    step.held = lambda n: (asked.append(n), made(n))[1]  # type: ignore[assignment,func-returns-value]
    mixtures = [strategy.views(step, Stream.ARCH_STEP)] * 3
    found = step.scores(mixtures, range(2), 0.01)
    assert asked == [0, 1] and len(found) == 3
    assert found == step.scores(mixtures, range(2))


def test_the_last_candidate_of_a_choice_stays() -> None:
    order = [(0, 1), (1, 0), (0, 0), (0, 2), (2, 0), (1, 1)]
    alone = [[[i] for i in range(size)] for size in (3, 2, 1)]
    assert removed(order, alone) == [(0, 1), (1, 0), (0, 0)]
    pairs = [[[0, 3, 4], [1, 3, 5], [2, 4, 5]]]  # paths of three, two at once at most
    assert removed([(0, 2), (0, 0), (0, 1)], pairs) == [(0, 2), (0, 0)]


def test_a_path_goes_with_all_that_have_it_and_a_candidate_is_worth_its_paths() -> None:
    choice = Searchable(CostModel(load_space("digits"))).choices.ops[0]
    strategy = Shapley(Choices((choice,)), configured(Shapley, players="paths"), seed=0)
    (paths,) = strategy.players
    assert [choice.candidates[i] for i in paths["e6 path 2"]] == ["e6k5", "e6k35", "e6k57"]
    step = Steps(Toy(1), strategy.config)(0)

    def scores(several: Sequence[Views], batches: range, least: float) -> list[tuple[float, float]]:
        left = [
            [n for n, (alone, *_) in enumerate(paths.values()) if alone in v[0]] for v in several
        ]  # type: ignore[operator]
        return [(0.0, 100.0 + sum(2**n for n in each)) for each in left]

    step.scores = scores  # type: ignore[method-assign]
    (found,) = strategy._order(step, 0, np.random.default_rng(0))
    of_paths = [float(found[alone]) for alone, *_ in paths.values()]
    stays = of_paths.index(0)  # the last one
    assert of_paths == [2**n * (n != stays) for n in range(6)]
    for index, worth in enumerate(found.tolist()):
        own = [n for n, group in enumerate(paths.values()) if index in group]
        assert worth == sum(of_paths[n] for n in own)


def additive(step: SearchStep, worth: Sequence[Sequence[float]]) -> list[range]:
    """A step whose mixtures are worth the sum of their candidates; the batches asked for."""
    asked: list[range] = []

    def scores(several: Sequence[Views], batches: range, least: float) -> list[tuple[float, float]]:
        asked.append(batches)
        return [
            (0.0, 10 + sum(own[i] for own, view in zip(worth, views, strict=True) for i in view))  # type: ignore[union-attr]
            for views in several
        ]

    step.scores = scores  # type: ignore[method-assign,assignment]
    return asked


WORTH = [[0.3, -0.2, 0.5], [0.1, 0.4, 0.0]]


def test_parameters_move_by_standardised_contributions_with_momentum() -> None:
    strategy = Shapley(choices(3, 3), configured(Shapley, orders=400, arch_every=1), seed=0)
    before = [a.detach().clone() for a in strategy.parameters]
    steps = Steps(Toy(2), strategy.config)
    for n in range(2):
        step = steps(n)
        additive(step, WORTH)
        strategy.learn(step)
    worth = torch.tensor(WORTH) * 2 / 3  # of three candidates one is not removed
    expected = (worth - worth.mean()) / worth.std(correction=0)
    moved = torch.stack([a.detach() - b for a, b in zip(strategy.parameters, before, strict=True)])
    # 0.1 times what is 0.2, then 0.8 * 0.2 + 0.2 of it
    torch.testing.assert_close(moved, 0.1 * 0.56 * expected, atol=6e-3, rtol=0)


def test_orders_and_passes_have_other_images_and_steps_of_an_order_the_same() -> None:
    config = configured(Shapley, orders=2, arch_every=5, score_images=65)
    strategy = Shapley(choices(3, 3), config, seed=0)
    steps, asked = Steps(Toy(2), config), []
    for n in (0, 5):
        step = steps(n)
        asked.append(additive(step, WORTH))
        strategy.learn(step)
    assert asked == [[range(3), range(3, 6)], [range(6, 9), range(9, 12)]]


def test_the_mean_less_the_deviation_is_no_division_of_the_whole() -> None:
    found = [[torch.tensor([0.2, 0.0])], [torch.tensor([0.0, 0.4])]]
    mean = Shapley(choices(2), configured(Shapley), seed=0)._estimated(found)
    less = Shapley(choices(2), configured(Shapley, estimate="mean-std"), seed=0)._estimated(found)
    torch.testing.assert_close(mean[0], torch.tensor([0.1, 0.2]))
    torch.testing.assert_close(less[0], torch.tensor([0.0, 0.0]))
    assert configured(Shapley).estimate == "mean"  # type: ignore[attr-defined]


def test_costs_have_exact_contributions() -> None:
    strategy, steps = in_space("shapley", {"cost_weight": 2.0})
    space = steps.searchable.space
    cost = Steps(Toy(1), strategy.config, limits={"flops": 1000.0}, space=space).cost
    steps.cost = cost
    found = strategy._of_costs(steps(0))  # type: ignore[attr-defined]
    p = [x.detach() for x in strategy.probabilities()]
    whole = float(cost.excess(p))
    for place, size in enumerate(strategy.choices.sizes):
        for i in range(size):
            less = [*p]
            less[place] = p[place] * (1 - one_hot(torch.tensor(i), size))
            share = 2 * (whole - float(cost.excess(less)))
            assert float(found[place][i]) == pytest.approx(share, rel=1e-4)


def test_types_of_cells_are_standardised_apart() -> None:
    settings = {"orders": 1, "contribution_momentum": 0.0}
    strategy, steps = in_space("shapley", settings, cells("darts"))
    step = steps(0)
    edges = len(strategy.choices.ops) // 2
    sizes = strategy.choices.sizes
    additive(step, [[(k < edges) + 0.01 * i for i in range(n)] for k, n in enumerate(sizes)])
    strategy.learn(step)
    for part in (slice(0, edges), slice(edges, None)):
        own = torch.cat(strategy.contributions[part])  # type: ignore[attr-defined]
        assert float(own.mean()) == pytest.approx(0, abs=1e-5)
        assert float(own.std(correction=0)) == pytest.approx(1, abs=1e-5)


def test_what_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    settings = {"orders": 2, "score_images": 32}
    found = []
    for _ in range(2):
        strategy, steps = in_space("shapley", settings)
        strategy.scores = ScoreLog(tmp_path / "contributions.jsonl")
        step = steps(0)
        if found:
            step.scores = lambda *_: pytest.fail("measured again")  # type: ignore[method-assign]
        strategy.learn(step)
        found.append((strategy.parameters, step.spent))
    assert all(torch.equal(a, b) for a, b in zip(found[0][0], found[1][0], strict=True))
    assert found[0][1] == found[1][1] > 0  # it was spent all the same


def test_paths_are_refused_where_there_are_none() -> None:
    searchable = Searchable(CostModel(load_space("macro")))
    with pytest.raises(BadInput, match="players=paths: no block of space macro"):
        Shapley.check(searchable, configured(Shapley, players="paths"))


@pytest.mark.parametrize(
    "setting, words",
    [
        ("score_images=16", "score_images 16 must be at least batch_size 32"),
        ("orders=0", "orders"),
        ("truncate=1", "truncate"),
        ("cost_form=power", "cost_form"),
        ("contribution_momentum=1", "contribution_momentum"),
    ],
)
def test_settings_that_it_cannot_have(setting: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        load_search_config("shapley", "cpu", [setting])
