"""What holds for every strategy that learns an architecture."""

from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from searched import CELLS, suited
from toys import (
    CLASSES,
    PLANTED,
    SPACE,
    STEPS,
    Batches,
    ImageBatches,
    Steps,
    Toy,
    ToyCells,
    blocks,
    cells,
    choices,
    configured,
    searched,
    snapshot,
    two_blocks,
)

from mobilenas.base.errors import Diverged
from mobilenas.base.randomness import Stream
from mobilenas.cost.edge_model import costs_of
from mobilenas.nn.edge_cells import MixedEdge
from mobilenas.space import (
    EdgeCellSpace,
    Space,
    listed_space_from_dict,
    load_listed_space,
    load_space,
)
from mobilenas.stages.derived import derived_network
from mobilenas.strategies.choices import Choices
from mobilenas.strategies.darts import Darts
from mobilenas.strategies.learned import LearnedStrategy
from mobilenas.strategies.methods import METHODS
from mobilenas.strategies.score_log import ScoreLog
from mobilenas.strategies.search_step import SearchStep
from mobilenas.strategies.search_task import SearchTask
from mobilenas.strategies.searchable import Searchable
from mobilenas.train.distributed import SINGLE, Processes

# DropNAS's decay moves the architecture in any step.
SETTINGS: dict[str, dict[str, Any]] = {
    "dropnas": {"arch_weight_decay": 0.0},
    "shapley": {"arch_every": 10, "orders": 1, "score_images": 32},
    "zarts": {"arch_every": 5, "sigma": 0.3, "samples": 4, "inner_steps": 2},
    "svge": {"labels": 20, "rounds": 1, "score_images": 32, "vae_steps": 5},
}
TOGETHER = ["dropnas"]  # one step for weights and architecture
ALL = [pytest.param(name, SETTINGS.get(name, {}), id=name) for name in METHODS]
ALL.append(pytest.param("darts", {"order": 2}, id="darts of second order"))
ALL.append(pytest.param("drnas", {"prune_to": 2}, id="drnas with pruning"))
ALL.append(pytest.param("gaea", {"backbone": "gdas"}, id="gaea over gdas"))
ALL.append(pytest.param("gaea", {"level": "single"}, id="gaea of one level"))


def space_for(name: str) -> Space | EdgeCellSpace:
    """Two blocks, or cells where the strategy does not take blocks."""
    if suited(name, SPACE) == SPACE:
        return two_blocks()
    data = load_listed_space(CELLS).to_dict() | {"num_classes": CLASSES}
    space = listed_space_from_dict(data)
    assert isinstance(space, EdgeCellSpace)
    return space


def made(name: str, of: Choices, settings: dict[str, Any]) -> LearnedStrategy:
    kind = METHODS[name].strategy
    return kind(of, configured(kind, **settings), seed=0)


def in_space(
    name: str,
    settings: dict[str, Any],
    space: Space | EdgeCellSpace | None = None,
    batches: Callable[[int], Batches] = ImageBatches,
    processes: Processes = SINGLE,
) -> tuple[LearnedStrategy, Steps]:
    space = space or space_for(name)
    searchable = Searchable(costs_of(space))
    strategy = made(name, searchable.choices, settings)
    generator = torch.Generator().manual_seed(0)
    supernet = strategy.supernet(searchable, strategy.config, generator)
    steps = Steps(supernet, strategy.config, batches, space=space, processes=processes)
    return strategy, steps


@pytest.mark.parametrize("name, settings", ALL)
def test_it_finds_the_one_candidate_that_is_right(name: str, settings: dict[str, Any]) -> None:
    # ISTA-NAS tries nothing at random, and behind a block of noise no candidate is better.
    count = 1 if name == "ista" else 2
    strategy = made(name, choices(*[3] * count), settings)
    torch.manual_seed(0)
    steps = Steps(Toy(count), strategy.config, space=blocks(count))
    for n in range(150):
        strategy.step(steps(n, n / 149))
    assert [int(p.argmax()) for p in strategy.probabilities()] == [PLANTED] * count


# What is learnt from measurements takes more of them where edges are many: half a minute of shapley
# in darts, which svge does not take. mergenas learns by edges of its own, ista by a choice of one.
ON_EDGES: dict[str, dict[str, Any]] = {
    "rome": {"samples": 3},
    "shapley": {"arch_every": 5, "orders": 4, "score_images": 256},
    "zarts": {"arch_every": 2, "sigma": 0.3, "samples": 8, "inner_steps": 2},
    "svge": {"labels": 40, "rounds": 1, "score_images": 32, "vae_steps": 5},
}
NB201 = METHODS.keys() - {"mergenas", "ista"}
ON_CELLS = [("nb201:cells=1", name) for name in sorted(NB201)]
ON_CELLS += [("darts:cells=3", name) for name in sorted(NB201 - {"shapley", "svge"})]


@pytest.mark.parametrize("cells, name", ON_CELLS)
def test_it_finds_the_one_op_that_is_right_on_each_edge(cells: str, name: str) -> None:
    ops = "ops=[nor_conv_1x1,skip_connect,nor_conv_3x3]"
    space = load_listed_space(f"{cells},channels=4,resolution=8,nodes=2,{ops}")
    assert isinstance(space, EdgeCellSpace)
    of = searched(space).choices
    strategy = made(name, of, (SETTINGS | ON_EDGES).get(name, {}))
    torch.manual_seed(0)
    steps = Steps(ToyCells(space), strategy.config, space=space)
    number = 190 if name in ON_EDGES else 120
    for n in range(number):
        step = steps(n, n / (number - 1))
        step.steps = number
        strategy.step(step)
    assert [int(p.argmax()) for p in strategy.probabilities()] == [PLANTED] * len(of.ops)


@pytest.mark.parametrize("name, settings", ALL)
def test_architecture_and_weights_are_moved_by_their_own_steps_only(
    name: str, settings: dict[str, Any]
) -> None:
    strategy, steps = in_space(name, settings)
    strategy.step(steps(0))  # the optimizers have a state now
    module = steps.trainer.module
    before = snapshot(module)
    alphas = [alpha.detach().clone() for alpha in strategy.parameters]
    strategy.learn(steps(1))
    still = (torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert name in TOGETHER or all(still)
    assert any(not torch.equal(a, b) for a, b in zip(alphas, strategy.parameters, strict=True))
    alphas = [alpha.detach().clone() for alpha in strategy.parameters]
    strategy.fit(steps(1))
    assert all(torch.equal(a, b) for a, b in zip(alphas, strategy.parameters, strict=True))
    assert any(not torch.equal(value, before[key]) for key, value in module.state_dict().items())
    groups = steps.trainer.optimizer.param_groups
    own = {id(p) for p in [*module.parameters(), *(p for g in groups for p in g["params"])]}
    assert not own & {id(alpha) for alpha in strategy.parameters}
    assert all(alpha.grad is None for alpha in strategy.parameters)


@pytest.mark.parametrize("name", ["darts", "gdas", "drnas", "proxyless", "idarts", "rome"])
def test_a_loss_that_is_lost_is_named_before_what_follows_from_it(name: str) -> None:
    strategy, steps = in_space(name, {"arch_every": 2} if name in ("proxyless", "idarts") else {})
    train = steps.trainer.train
    steps.trainer.train = lambda n: (  # type: ignore[method-assign]
        train(n)[0] * (torch.nan if n == 2 else 1),
        train(n)[1],
    )
    with pytest.raises(Diverged, match=r"^step 2: the loss of .* is nan; a lower lr may help$"):
        for n in range(4):
            strategy.step(steps(n))
    assert all(alpha.isfinite().all() for alpha in strategy.parameters)


# dropnas learns nothing from held-out images.
@pytest.mark.parametrize("name", sorted(set(METHODS) - {"dropnas"}))
def test_what_is_not_finite_moves_nothing(name: str) -> None:
    strategy, steps = in_space(name, SETTINGS.get(name, {}))
    strategy.step(steps(0))
    alphas = [alpha.detach().clone() for alpha in strategy.parameters]
    held = steps.held
    steps.held = lambda n: (held(n)[0] * torch.nan, held(n)[1])
    with pytest.raises(Diverged, match=r"step 1: .* not finite"):
        strategy.learn(steps(1))
    assert all(torch.equal(a, b) for a, b in zip(alphas, strategy.parameters, strict=True))


def test_scores_that_are_not_finite_are_not_stored(tmp_path: Path) -> None:
    strategy, steps = in_space("darts-pt", {"score_images": 32})
    strategy.scores = ScoreLog(tmp_path / "projections.jsonl")
    held = steps.held
    steps.held = lambda n: (held(n)[0] * torch.nan, held(n)[1])
    decide, places = strategy.events[0]  # type: ignore[attr-defined]
    with pytest.raises(Diverged, match=r"step 1: .* not finite"):
        decide(steps(1), places[0])
    assert not (tmp_path / "projections.jsonl").exists()


@pytest.mark.parametrize("name", ["gdas", "proxyless", "parsec", "rome", "ista", "svge"])
def test_weights_that_were_not_drawn_do_not_move(name: str) -> None:
    strategy, steps = in_space(name, {"weight_decay": 0.01})
    for n in range(3):  # momentum of what was drawn before
        strategy.step(steps(n))
    module = steps.trainer.module
    before = snapshot(module)
    strategy.fit(steps(3))
    idle = [key for key, p in module.named_parameters() if p.grad is None]
    assert idle
    state = module.state_dict()
    assert all(torch.equal(state[key], before[key]) for key in idle)


@pytest.mark.parametrize("name", ["gdas", "proxyless", "parsec", "rome", "ista", "svge", "gaea"])
def test_no_more_ops_are_run_than_are_drawn(name: str) -> None:
    settings = {"backbone": "gdas"} if name == "gaea" else SETTINGS.get(name, {})
    strategy, steps = in_space(name, settings, cells("nb201"))
    module, ran = steps.trainer.module, Counter[str]()
    module.register_forward_hook(lambda *_: ran.update(["forwards"]))
    edges = [part for part in module.modules() if isinstance(part, MixedEdge)]
    for op in (op for edge in edges for op in edge):
        op.register_forward_hook(lambda *_: ran.update(["ops"]))
    phases = [(strategy.fit, 1), (strategy.learn, 2 if name == "proxyless" else 1)]
    for phase, each in phases[: 1 if name == "svge" else 2]:  # svge learns from other scores
        ran.clear()
        phase(steps(0))
        assert ran["ops"] == each * len(edges) * ran["forwards"] > 0


@pytest.mark.parametrize("name", ["gaea", "shapley", "zarts"])
def test_the_rate_and_the_decay_of_adam_are_not_those_of_others(name: str) -> None:
    found = []
    for settings in ({}, {"arch_lr": 5.0, "arch_weight_decay": 1.0}):
        strategy, steps = in_space(name, {**SETTINGS.get(name, {}), **settings})
        strategy.learn(steps(0))
        found.append(strategy.parameters)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


# Those that run one candidate a choice; of a sum no network computes more than what is derived.
@pytest.mark.parametrize("name", ["gdas", "proxyless", "parsec", "rome", "ista", "svge", "gaea"])
@pytest.mark.parametrize("space", [two_blocks(), cells("nb201")], ids=["blocks", "nb201"])
def test_a_network_computes_what_was_trained_or_is_not_left(
    name: str, space: Space | EdgeCellSpace
) -> None:
    settings = {"backbone": "gdas"} if name == "gaea" else SETTINGS.get(name, {})
    strategy, steps = in_space(name, settings, space)
    for n in range(3):
        strategy.step(steps(n, n / 2))
    with torch.no_grad():
        views = strategy.views(steps(2, 1.0), Stream.WEIGHT_STEP)
        ops = views[: len(strategy.choices.ops)]
        genes = [view if isinstance(view, int) else next(iter(view)) for view in ops]
        images, supernet = steps.held(0)[0], steps.trainer.module
        network = derived_network(supernet, space.decode(np.array(genes)), [images])
        supernet.eval()
        logits = supernet(images, steps.searchable.placed(views))
        off = float((network(images) - logits).abs().max() / logits.abs().max())
    assert (off > 0.1) if strategy.no_network else (off < 1e-5)


@pytest.mark.parametrize("name, settings", ALL)
def test_a_stored_strategy_goes_on_to_the_same_bits(name: str, settings: dict[str, Any]) -> None:
    """Of a search of three steps, each of which learns; that of svge only the last."""
    if "arch_every" in METHODS[name].strategy.Config.model_fields:
        settings = settings | {"arch_every": 1}

    def step_of(steps: Steps, n: int) -> SearchStep:
        step = steps(n, n / 2)
        step.steps = 3
        return step

    def standing(strategy: LearnedStrategy) -> torch.Tensor:
        return torch.cat([*strategy.parameters, *strategy.probabilities()]).detach().clone()

    strategy, steps = in_space(name, settings)
    start = standing(strategy)
    for n in range(2):
        strategy.step(step_of(steps, n))
    stored = standing(strategy)
    again, more = in_space(name, settings)
    again.load_state(deepcopy(strategy.state()))
    again.scores.rows = [*strategy.scores.rows]  # which are in a file of their own
    more.trainer.module.load_state_dict(steps.trainer.module.state_dict())
    more.trainer.optimizer.load_state_dict(deepcopy(steps.trainer.optimizer.state_dict()))
    for each, of in ((strategy, steps), (again, more)):
        each.step(step_of(of, 2))
    assert name == "svge" or not torch.equal(start, stored)
    assert not torch.equal(stored, standing(strategy))
    if name == "drnas" and "prune_to" in settings:
        assert all(sum(p > 0) == 2 for p in again.probabilities())
    assert torch.equal(standing(strategy), standing(again))
    state = more.trainer.module.state_dict()
    for key, value in steps.trainer.module.state_dict().items():
        assert torch.equal(value, state[key]), key


@pytest.mark.parametrize("name, settings", ALL)
def test_a_tight_limit_makes_it_cheaper(name: str, settings: dict[str, Any]) -> None:
    found = []
    for weight in (0.0, 30.0):
        strategy, steps = in_space(name, {**settings, "cost_weight": weight})
        limits, space = {"flops": 1.0}, steps.searchable.space
        steps.cost = Steps(torch.nn.Linear(1, 1), strategy.config, limits=limits, space=space).cost
        for n in range(10):
            strategy.learn(steps(n))
        found.append(float(steps.cost.of("flops", strategy.probabilities()).detach()))
    assert found[1] < 0.97 * found[0]


def test_the_start_is_a_function_of_the_seed() -> None:
    config = configured(Darts)
    one, two, other = (Darts(choices(3, 5), config, seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters, two.parameters, strict=True))
    assert not torch.equal(one.parameters[0], other.parameters[0])
    assert max(float(a.abs().max()) for a in one.parameters) < 0.01


def test_dropout_where_the_architecture_is_learnt_is_a_function_of_the_step() -> None:
    space, found = load_space("macro:width=0.25,resolution=8"), []
    for _ in range(2):
        torch.rand(1)  # whatever was drawn before
        strategy, steps = in_space("pdarts", {"skip_dropout": (0.5, 0.5, 0.5)}, space)
        task = SearchTask(
            *(strategy, steps(0).objective, steps.held, steps.searchable, {}, 32 * STEPS)
        )
        for n in range(2):
            task.step(steps.trainer, n)
        found.append(strategy.parameters)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("name", ["darts", "proxyless", "idarts", "shapley", "zarts"])
def test_whether_any_step_learns_the_architecture(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those two that train the weights first have the last of each `arch_every` steps."""
    for first, last in product(range(4), range(4, 7)):
        settings = {} if name == "darts" else {"arch_every": 4}
        strategy, steps = in_space(name, settings, batches=Batches)
        seen: list[int] = []
        monkeypatch.setattr(strategy, "learn", lambda step, seen=seen: seen.append(step.n))
        monkeypatch.setattr(strategy, "fit", lambda step: None)
        for n in range(first, last):
            step = steps(n)
            step.learnt = n - first
            strategy.step(step)
        assert strategy.learns(strategy.config, range(first, last)) == bool(seen)


@pytest.mark.parametrize("first, steps_in_all", [(0.0, 8), (0.25, 8), (0.75, 8), (0.0, 1)])
def test_progress_goes_from_the_first_step_that_learns_to_the_last(
    first: float, steps_in_all: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy, steps = in_space("darts", {"weights_first": first, "epochs": 1})
    task = SearchTask(
        *(strategy, steps(0).objective, steps.held, steps.searchable, {}, 32 * steps_in_all)
    )
    seen = []
    monkeypatch.setattr(strategy, "fit", lambda step: seen.append((step.learnt, step.progress)))
    monkeypatch.setattr(strategy, "learn", lambda step: seen.append("learns"))
    assert task.steps == steps_in_all
    for n in range(task.steps):
        task.step(steps.trainer, n)
    alone = round(first * steps_in_all)
    learning = steps_in_all - alone
    expected: list[Any] = [(n - alone, 0.0) for n in range(alone)]
    for n in range(learning):
        expected += ["learns", (n, n / max(1, learning - 1))]
    assert seen == expected  # from 0 to 1
