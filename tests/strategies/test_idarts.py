"""iDARTS against the exact gradient of a quadratic problem, and its products with the Hessian."""

from typing import Any

import numpy as np
import pytest
import torch
from test_darts import doubled, in_double
from torch import Tensor, nn
from toys import ImageBatches, Steps, Toy, cells, choices, configured, searched

from mobilenas.base.errors import BadInput, Diverged
from mobilenas.base.randomness import Stream
from mobilenas.nn.kernels import plain_kernels
from mobilenas.nn.views import Views
from mobilenas.space import load_space
from mobilenas.strategies import darts
from mobilenas.strategies.darts import change_along
from mobilenas.strategies.idarts import Idarts
from mobilenas.strategies.methods import load_search_config
from mobilenas.strategies.search_step import SearchStep

WEIGHTS, RHO = 6, 0.3


class DoubleImages(ImageBatches):
    """In the precision of a module in float64."""

    def __call__(self, n: int) -> tuple[Tensor, Tensor]:
        images, labels = super().__call__(n)
        return images.double(), labels


class Quadratic:
    """L_train = w A w / 2 - w B a, L_held = |w - c|^2 / 2 + rho |a|^2 / 2, at the w that is best
    for a. A has eigenvalues from 0.5 to `largest`; the slowest direction carries most of c.
    """

    def __init__(self, largest: float, **settings: Any) -> None:
        rng = np.random.default_rng(0)
        turn = torch.from_numpy(np.linalg.qr(rng.normal(size=(WEIGHTS, WEIGHTS)))[0])
        self.A = turn @ torch.diag(torch.linspace(0.5, largest, WEIGHTS).double()) @ turn.T
        self.B = torch.from_numpy(rng.normal(size=(WEIGHTS, 3)))
        config = configured(Idarts, **settings)
        self.strategy = doubled(Idarts(choices(3), config, seed=0))
        self.alpha = self.strategy.parameters[0]
        with torch.no_grad():
            self.alpha.copy_(torch.from_numpy(rng.normal(size=3)))
        self.best = torch.linalg.solve(self.A, self.B @ self.alpha.detach())
        self.c = self.best + 5 * turn[:, 0] + 0.1 * torch.from_numpy(rng.normal(size=WEIGHTS))
        self.module = nn.ParameterList([nn.Parameter(self.best.clone())])
        self.step = Steps(self.module, config)(0)
        self.step.loss = self.loss  # type: ignore[method-assign,assignment]

    def loss(self, views: Views, part: str) -> Tensor:
        return self.train(self.module[0]) if part == "train" else self.held(self.module[0])

    def train(self, w: Tensor) -> Tensor:
        return w @ self.A @ w / 2 - w @ self.B @ self.alpha

    def held(self, w: Tensor) -> Tensor:
        return (w - self.c).square().sum() / 2 + RHO * self.alpha.square().sum() / 2

    def found(self) -> Tensor:
        """The gradient of the strategy."""
        gradients: list[Tensor] = []
        self.strategy.apply = gradients.extend  # type: ignore[method-assign,assignment]
        self.strategy.learn(self.step)
        return gradients[0]

    def error(self) -> float:
        """Of the part that goes through the weights, relative to it."""
        through = self.B.T @ torch.linalg.solve(self.A, self.best - self.c)
        exact = RHO * self.alpha.detach() + through
        return float((self.found() - exact).norm() / through.norm())


@pytest.mark.parametrize(
    "terms, error",
    [(0, 0.8), (1, 0.64), (2, 0.51), (5, 0.26), (10, 0.086), (20, 0.0092), (40, 1.06e-4)],
)
def test_the_error_falls_with_the_number_of_terms(terms: int, error: float) -> None:
    problem = Quadratic(2.5, gamma=0.4, terms=terms)  # |1 - 0.4 * 0.5| = 0.8 a term
    assert problem.error() == pytest.approx(error, rel=0.04)


@pytest.mark.parametrize("terms", [0, 3, 12])
def test_it_is_back_propagation_through_one_more_step_than_terms(terms: int) -> None:
    problem = Quadratic(2.5, gamma=0.3, terms=terms)
    w = problem.best.clone().requires_grad_()
    for _ in range(terms + 1):
        (slope,) = torch.autograd.grad(problem.train(w), w, create_graph=True)
        w = w - 0.3 * slope
    (exact,) = torch.autograd.grad(problem.held(w), problem.alpha)
    torch.testing.assert_close(problem.found(), exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("terms", [2, 60])
def test_a_series_that_grows_is_stopped(terms: int) -> None:
    problem = Quadratic(2.2 / 0.4, gamma=0.4, terms=terms)  # |1 - 2.2| = 1.2
    if terms == 2:  # else the slowest direction hides the growth at first
        problem.c = problem.best + torch.linalg.eigh(problem.A)[1][:, -1]
    with pytest.raises(Diverged, match=r"step 0: .*grows by 1\.\d+ a term with gamma 0\.4"):
        problem.found()


def test_a_series_that_grows_with_the_default_gamma_is_stopped() -> None:
    problem = Quadratic(2.2 / 0.4, lr=0.4, terms=60)
    turn = torch.linalg.eigh(problem.A)[1]
    problem.c = problem.best + 5 * turn[:, 0] + 1e-3 * turn[:, -1]  # two products see no growth
    with pytest.raises(Diverged, match=r"step 0: .*grows by 1\.\d+ a term with gamma 0\.4"):
        problem.found()


def test_the_little_growth_of_negative_curvature_stops_no_default_search() -> None:
    problem = Quadratic(2.5, lr=0.4, terms=2)
    values, turn = torch.linalg.eigh(problem.A)
    problem.c = problem.best + turn[:, 0]
    problem.A = problem.A - 2 * values[0] * torch.outer(turn[:, 0], turn[:, 0])  # -0.5 there
    assert problem.found().isfinite().all()  # |1 + 0.4 * 0.5| = 1.2 a term


def test_gamma_is_the_learning_rate_and_the_decay_of_weights_is_in_the_hessian() -> None:
    plain, decayed = (Quadratic(2.5, lr=0.4, weight_decay=d, terms=3) for d in (0.0, 0.2))
    named = Quadratic(2.5, gamma=0.4, terms=3)
    assert torch.equal(plain.found(), named.found())
    p = total = plain.best - plain.c
    for _ in range(3):
        p = p - 0.4 * (decayed.A @ p + 0.2 * p)
        total = total + p
    expected = RHO * plain.alpha.detach() + 0.4 * plain.B.T @ total
    torch.testing.assert_close(decayed.found(), expected)


def test_the_products_with_the_hessian_are_what_differences_tend_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(darts, "RADIUS", 1e-5)  # no activation changes its sign within it
    space = cells("nb201")
    searchable = searched(space)
    strategy = doubled(Idarts(searchable.choices, configured(Idarts), seed=0))
    supernet = searchable.supernet(
        dense=True, shadow_bn=True, generator=torch.Generator().manual_seed(0)
    )
    steps = Steps(supernet.double(), strategy.config, DoubleImages, space=space)
    step = steps(0)
    placed = steps.searchable.placed

    def loss(views: Views, part: str) -> Tensor:
        return in_double(step, placed(views), part)

    step.loss = loss  # type: ignore[method-assign,assignment]
    rng = np.random.default_rng(0)
    v = [torch.from_numpy(rng.normal(size=tuple(w.shape))) for w in step.parameters]
    differences = change_along(v, step, strategy, step.parameters)
    with plain_kernels():
        found = step.curvature(strategy.views(step, Stream.ARCH_STEP))(v)
    error = darts.norm([f - d for f, d in zip(found, differences, strict=True)])
    assert error < 1e-6 * darts.norm(found)


def test_gamma_is_less_where_the_series_would_grow() -> None:
    steep, named = Quadratic(20.0, lr=0.4, terms=3), Quadratic(20.0, terms=3, gamma=1)
    steep.c = named.c = steep.best - torch.ones(WEIGHTS).double()  # |1 - 0.4 * 20| = 7 a term
    first = steep.A @ (steep.best - steep.c)
    gamma = float(first.norm() / (steep.A @ first).norm()) / 2
    assert gamma < 0.4
    named.strategy.config = configured(Idarts, terms=3, gamma=gamma)
    torch.testing.assert_close(steep.found(), named.found())


def test_it_works_where_convolutions_have_no_second_derivative() -> None:
    space = load_space("s1:width=0.1,resolution=8,num_classes=4")
    config = configured(Idarts)
    searchable = searched(space)
    strategy = Idarts(searchable.choices, config, seed=0)
    supernet = strategy.supernet(searchable, config, torch.Generator().manual_seed(0))
    found: list[Tensor] = []
    strategy.apply = found.extend  # type: ignore[method-assign,assignment]
    strategy.learn(Steps(supernet, config, ImageBatches, space=space)(0))
    assert all(gradient.isfinite().all() and gradient.any() for gradient in found)


def test_the_architecture_moves_every_few_weight_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(SearchStep, "train", lambda self, samples: order.append("w"))
    strategy = Idarts(choices(3), configured(Idarts, arch_every=3), seed=0)
    strategy.apply = lambda gradients: order.append("a")  # type: ignore[method-assign]
    steps = Steps(Toy(1), strategy.config)
    for n in range(7):
        strategy.step(steps(n))
    assert "".join(order) == "wwwawwwaw"


@pytest.mark.parametrize("setting", ["terms=-1", "gamma=0", "arch_every=0"])
def test_settings_that_it_cannot_have(setting: str) -> None:
    with pytest.raises(BadInput, match=setting.split("=")[0]):
        load_search_config("idarts", "cpu", [setting])
