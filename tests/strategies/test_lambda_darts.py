"""Lambda-DARTS: its regulariser against derivatives through derivatives, and who shares what."""

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from test_learned import in_space
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from toys import CLASSES, FEATURES, Steps, blocks, cells, choices, configured, searched, snapshot

from mobilenas.base.errors import BadInput
from mobilenas.base.randomness import Stream
from mobilenas.nn.views import Views, mix
from mobilenas.space import load_listed_space, load_space
from mobilenas.strategies.lambda_darts import LambdaDarts, agreement
from mobilenas.strategies.search_step import SearchStep


class Layers(nn.Module):
    """Three layers that mix what four matrices make of their input, in float64."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        drawn = torch.randn(3, 4, FEATURES, FEATURES, generator=generator).double()
        self.layers = nn.Parameter(drawn / FEATURES**0.5)
        self.last = nn.Parameter(torch.randn(FEATURES, CLASSES, generator=generator).double())

    def forward(self, x: Tensor, views: Views) -> Tensor:
        x = x.flatten(1).double()
        for layer, view in zip(self.layers, views, strict=True):
            x = mix(view, lambda ids, x=x, layer=layer: [torch.tanh(x @ layer[i]) for i in ids])  # type: ignore[misc]
        return cast(Tensor, x @ self.last)


def toy(**settings: float) -> tuple[LambdaDarts, Steps]:
    config = configured(LambdaDarts, clip=None, lr=1e-9, **settings)
    space = blocks(3)
    strategy = LambdaDarts(choices(4, 4, 4), config, seed=0)
    strategy.parameters = [a.detach().double().requires_grad_() for a in strategy.parameters]
    return strategy, Steps(Layers(), config, space=space)


def in_double(step: SearchStep) -> SearchStep:
    """The step with a loss in float64."""
    step.objective.loss = lambda logits, target, taught: cross_entropy(logits, target)  # type: ignore[method-assign]
    return step


def exact(steps: Steps, strategy: LambdaDarts) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Lambda, its derivatives by the weights, and those of the loss."""
    p = [x.detach().clone().requires_grad_() for x in strategy.probabilities()]
    step = in_double(steps(0))
    loss = step.loss([dict(enumerate(x.unbind())) for x in p], "train")
    weights = step.parameters
    g = torch.autograd.grad(loss, p, create_graph=True)
    value = sum(torch.cosine_similarity(g[a], g[b], 0) for a, b in ((0, 1), (0, 2), (1, 2))) / 3
    assert isinstance(value, Tensor)
    of_lambda = torch.autograd.grad(value, weights, retain_graph=True)
    return value.detach(), [*of_lambda], [*torch.autograd.grad(loss, weights)]


@pytest.mark.parametrize("radius, error", [(1e-2, 2e-4), (1e-4, 2e-8)])
def test_its_gradient_is_that_of_the_second_derivatives(radius: float, error: float) -> None:
    strategy, steps = toy(harmony=1.0, harmony_radius=radius)
    _, of_lambda, of_loss = exact(steps, strategy)
    strategy.fit(in_double(steps(0, progress=1.0)))
    found = [p.grad for p in steps.trainer.module.parameters()]
    away = [f - (loss - x) for f, x, loss in zip(found, of_lambda, of_loss, strict=True)]
    norm = torch.cat([x.flatten() for x in of_lambda]).norm()
    assert torch.cat([x.flatten() for x in away]).norm() < error * norm


def test_the_log_has_lambda() -> None:
    strategy, steps = toy()
    expected = exact(steps, strategy)[0].detach()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # as torch warns of a number that has a graph
        strategy.fit(in_double(steps(0, progress=1.0)))
    assert strategy.figures() == {"agreement": pytest.approx(float(expected), rel=1e-6)}


def test_a_small_step_makes_layers_agree_more() -> None:
    found = []
    for harmony in (0.0, 5.0):
        strategy, steps = toy(harmony=harmony)
        for group in steps.trainer.optimizer.param_groups:
            group["lr"] = 1e-3
        for n in range(5):
            strategy.fit(steps(n, progress=1.0))
        found.append(exact(steps, strategy)[0])
    assert found[1] > found[0] + 1e-3


@pytest.mark.parametrize("form", ["cosine", "sign"])
def test_agreement(form: str) -> None:
    g = torch.tensor([1.0, -2.0, 3.0]).double()
    assert float(agreement([g, g, 2 * g], form)) == pytest.approx(1)
    assert float(agreement([g, -g], form)) == pytest.approx(-1)
    assert float(agreement([g, g, -g], form)) == pytest.approx(-1 / 3)
    assert float(agreement([g, 0 * g], form)) == 0


def test_its_derivative_and_a_layer_without_gradient() -> None:
    drawn = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).double()
    g = [x.clone().requires_grad_() for x in drawn]
    found = torch.autograd.grad(agreement(g), g)
    unit = drawn / drawn.norm(dim=1, keepdim=True)
    total = unit.sum(0)
    for x, u, d in zip(drawn, unit, found, strict=True):
        torch.testing.assert_close(d, (total - u * (u @ total)) / x.norm() / 3)
    g[1] = torch.zeros(5).double().requires_grad_()
    found = torch.autograd.grad(agreement(g), g)
    assert all(x.isfinite().all() for x in found) and not found[1].any() and found[0].any()


def test_without_weight_it_is_darts_to_the_bit() -> None:
    space, found = cells("nb201"), []
    for name, settings in (("darts", {}), ("lambda-darts", {"harmony": 0.0})):
        strategy, steps = in_space(name, settings, space)
        for n in range(2):
            strategy.step(steps(n, progress=1.0))
        found.append([*strategy.parameters, *snapshot(steps.trainer.module).values()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("name", ["nb201", "darts"])
def test_layers_are_the_cells_of_a_type(name: str) -> None:
    space = cells(name)
    strategy, steps = in_space("lambda-darts", {}, space)
    types = [shape.kind for shape in space.shapes]
    layers = steps.searchable.layers
    assert [len(group) for group in layers] == [types.count(kind) for kind in sorted({*types})]
    edges = len(space.edges)
    for kind, group in enumerate(layers):
        for layer in group:
            assert [space.slots[place] for place in layer] == [
                *range(kind * edges, (kind + 1) * edges)
            ]
    before = snapshot(steps.trainer.module)
    step = steps(0, progress=1.0)
    strategy.fit(step)
    assert step.spent == pytest.approx(3 * 32 * strategy.choices.sizes[0])
    assert any(
        not torch.equal(x, before[key]) for key, x in steps.trainer.module.state_dict().items()
    )


def test_blocks_of_a_stage_that_are_alike_share_their_parameters() -> None:
    searchable = searched(load_space("macro:width=0.25"))
    strategy = LambdaDarts(searchable.choices, configured(LambdaDarts), seed=0)
    assert searchable.choices.alike == ((3, 4), (6, 7))
    assert len(strategy.parameters) == 6
    p = strategy.probabilities()
    assert p[3] is p[4] and p[6] is p[7] and not torch.equal(p[2], p[3])


def test_blocks_of_two_stages_share_nothing_though_they_are_alike(tmp_path: Path) -> None:
    data = load_space("macro:width=0.25").to_dict()
    stage = data["stages"][1] | {"stride": 1, "channels": 64, "blocks": 2}
    fixed = stage | {"fixed": "e3k3", "blocks": 1}
    file = tmp_path / "two.yaml"
    file.write_text(json.dumps(data | {"name": "two", "stages": [fixed, stage, stage]}))
    space = load_space(str(file))
    assert len({replace(block, name="") for block in space.blocks}) == 1
    assert searched(space).choices.alike == ((0, 1), (2, 3))


def test_a_space_without_layers_to_compare() -> None:
    with pytest.raises(BadInput, match="compares such layers"):
        LambdaDarts.check(searched(blocks(1)), configured(LambdaDarts))
    for name in ("nb201", "darts", "digits"):
        LambdaDarts.check(searched(load_listed_space(name)), configured(LambdaDarts))


def test_the_regulariser_grows_from_nothing() -> None:
    strategy, steps = toy()
    for progress, passes in ((0.0, 1), (0.5, 3)):
        step = steps(0, progress=progress)
        strategy.fit(step)
        assert step.spent == pytest.approx(passes * 32 * 4)
        assert len(strategy.figures()) == (passes > 1)
    assert strategy.views(steps(0), Stream.WEIGHT_STEP)
