"""SVGe: what its autoencoder and predictor learn, and the search that they make."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from test_learned import in_space
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from toys import Steps, Toy, cells, choices, configured, searched

from mobilenas.base.errors import BadInput
from mobilenas.base.randomness import fixed_generators
from mobilenas.cost import CostModel
from mobilenas.space import load_listed_space
from mobilenas.strategies.graph_vae import GraphVae, climb, divergence, train_predictor, train_vae
from mobilenas.strategies.score_log import ScoreLog
from mobilenas.strategies.search_step import SearchStep
from mobilenas.strategies.svge import Svge, _before

SIZES = [5] * 6
BEFORE = [[], [], [0], [], [0], [1, 2]]  # NAS-Bench-201


def drawn(count: int, rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(rng.integers(0, SIZES, (count, len(SIZES))))


def worth(genes: Tensor) -> Tensor:
    """Ops add up, and two pairs matter together."""
    own = torch.randn(len(SIZES), 5, generator=torch.Generator().manual_seed(1))
    total = torch.stack([each[g] for each, g in zip(own, genes.T, strict=True)]).sum(0)
    return total + 2.0 * (genes[:, 0] == genes[:, 2]) - 1.0 * (genes[:, 1] == genes[:, 5])


@pytest.fixture(scope="module")
def vae() -> GraphVae:
    rng = np.random.default_rng(0)
    with fixed_generators(0):
        made = GraphVae(SIZES, BEFORE)
        train_vae(made, lambda n: drawn(n, rng), 800)
    return made


def test_edges_follow_those_into_the_node_that_they_leave() -> None:
    assert _before(searched(cells("nb201")), 6) == BEFORE
    assert _before(searched(load_listed_space("digits")), 3) == [[], [0], [1]]


def test_archs_are_encoded_and_decoded(vae: GraphVae) -> None:
    held = drawn(200, np.random.default_rng(1))
    with torch.no_grad():
        found = vae.decode(vae.encode(held)[0])
    right = found == held
    assert right.float().mean() >= 0.99
    assert right.all(1).float().mean() >= 0.95


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_whatever_is_decoded_is_an_arch(scale: float) -> None:
    sizes = [5, 1, 3, 7]
    with fixed_generators(0):
        made = GraphVae(sizes, [[], [0], [0, 1], [2]])
        found = made.decode(scale * torch.randn(500, 32))
    assert found.shape == (500, 4)
    assert (found >= 0).all() and (found < torch.tensor(sizes)).all()


def test_the_divergence_is_that_of_normal_distributions() -> None:
    mean, log_variance = torch.randn(2, 7, 4, generator=torch.Generator().manual_seed(0))
    normal = Normal(mean, (log_variance / 2).exp())
    exact = kl_divergence(normal, Normal(torch.zeros(4), torch.ones(4))).sum(1).mean()
    torch.testing.assert_close(divergence(mean, log_variance), exact)


def test_the_predictor_learns_its_labels_and_orders_others(vae: GraphVae) -> None:
    genes = drawn(200, np.random.default_rng(2))
    labels = worth(genes)
    mean, scale = labels.mean(), labels.std()
    state = {name: value.clone() for name, value in vae.state_dict().items()}
    with fixed_generators(1):
        train_predictor(vae, genes, (labels - mean) / scale, 200)
    held = drawn(200, np.random.default_rng(3))
    with torch.no_grad():
        known, other = (vae.predictor(vae.encode(g)[0])[:, 0] for g in (genes, held))
        start = vae.encode(genes[:20])[0]
    assert (known - (labels - mean) / scale).square().mean() < 0.05

    def one_hot(each: Tensor) -> np.ndarray:
        return torch.nn.functional.one_hot(each, 5).flatten(1).float().numpy()

    linear, *_ = np.linalg.lstsq(one_hot(genes), labels.numpy(), rcond=None)
    of_linear = kendalltau(one_hot(held) @ linear, worth(held).numpy()).statistic
    tau = kendalltau(other.numpy(), worth(held).numpy()).statistic
    assert tau > of_linear - 0.05
    unknown = (worth(held) - mean) / scale
    assert (other - unknown).square().mean() < unknown.square().mean()  # better than the mean
    before = vae.predictor(start).detach()
    assert (vae.predictor(climb(vae, start, 20, 0.05)).detach() > before).all()
    vae.load_state_dict(state)


def test_the_predictor_overfits_few_labels(vae: GraphVae) -> None:
    genes = drawn(16, np.random.default_rng(4))
    labels = torch.randn(16, generator=torch.Generator().manual_seed(0))  # nothing to generalise
    state = {name: value.clone() for name, value in vae.state_dict().items()}
    with fixed_generators(1):
        train_predictor(vae, genes, labels, 300)
    with torch.no_grad():
        found = vae.predictor(vae.encode(genes)[0])[:, 0]
    assert (found - labels).square().mean() < 0.01
    vae.load_state_dict(state)


SMALL = {"labels": 40, "rounds": 3, "round_archs": 10, "score_images": 32, "vae_steps": 200}


def told(step: SearchStep) -> list[tuple[int, ...]]:
    """A step that says of each arch what `worth` does, in 0..1; the archs that it was asked for."""
    asked: list[tuple[int, ...]] = []

    def scores(
        several: list[tuple[int, ...]], batches: range, least: float
    ) -> list[tuple[float, float]]:
        asked.extend(several)
        return [(0.0, 0.5 + float(x) / 40) for x in worth(torch.tensor(several))]

    step.scores = scores  # type: ignore[method-assign,assignment]
    return asked


def test_the_search_finds_better_archs_than_chance_and_asks_for_none_twice() -> None:
    strategy, steps = in_space("svge", SMALL, cells("nb201"))
    step = steps(0)
    asked = told(step)
    strategy.learn(step)
    assert len(asked) == len(set(asked)) == 40 + 3 * 10
    everything = torch.cartesian_prod(*[torch.arange(5)] * 6)
    best = max(asked, key=lambda genes: float(worth(torch.tensor([genes]))))
    place = (worth(everything) > worth(torch.tensor([best]))).float().mean()
    assert place < 0.002  # of 70 random ones 0.014 is expected
    derived = strategy.derive(steps.searchable, {})
    assert derived == steps.searchable.space.decode(np.array(best))
    again, more = in_space("svge", SMALL, cells("nb201"))
    step = more(0)
    told(step)
    again.learn(step)
    assert again.worth == strategy.worth  # type: ignore[attr-defined]


def test_the_best_measured_arch_within_the_limits_is_derived(
    caplog: pytest.LogCaptureFixture,
) -> None:
    strategy, steps = in_space("svge", SMALL)
    costs = steps.searchable.costs
    assert isinstance(strategy, Svge) and isinstance(costs, CostModel)
    space = costs.space
    archs = space.sample_genes(30, np.random.default_rng(0))
    flops = costs.batch("flops", archs)
    strategy.worth = {tuple(g): float(f) for g, f in zip(archs.tolist(), flops, strict=True)}
    strategy.losses = dict.fromkeys(strategy.worth, 1.0)
    limit = float(np.median(flops))
    arch = strategy.derive(steps.searchable, {"flops": limit})
    assert costs.flops(arch) == flops[flops <= limit].max()  # type: ignore[arg-type]
    assert not caplog.records
    least = costs.range("flops").minimum
    arch = strategy.derive(steps.searchable, {"flops": least})
    assert costs.flops(arch) == least  # type: ignore[arg-type]
    dearer = {genes: f for genes, f in strategy.worth.items() if f > least}
    strategy.worth = dearer
    arch = strategy.derive(steps.searchable, {"flops": least})
    assert costs.flops(arch) == least  # type: ignore[arg-type]
    assert f"none of the {len(dearer)} measured archs is within the limits" in caplog.text


def test_of_archs_that_are_equal_in_accuracy_the_one_of_least_loss() -> None:
    strategy, steps = in_space("svge", SMALL)
    assert isinstance(strategy, Svge)
    genes = [*map(tuple, steps.searchable.space.sample_genes(5, np.random.default_rng(0)).tolist())]  # type: ignore[union-attr]
    strategy.worth = dict.fromkeys(genes, 0.5)
    strategy.losses = dict(zip(genes, [1.2, 1.1, 0.9, 1.0, 1.3], strict=True))
    best = steps.searchable.space.decode(np.array(genes[2]))
    assert strategy.derive(steps.searchable, {}) == best


def test_it_searches_once_after_the_last_step() -> None:
    config = configured(Svge, labels=4, rounds=1, vae_steps=1)
    strategy = Svge(choices(3, 3), config, seed=0)
    steps = Steps(Toy(2), config)
    for n in (0, 148):
        strategy.step(steps(n))
        assert not strategy.worth
    strategy.step(steps(149))
    assert strategy.worth


def test_a_graph_that_is_chosen_too() -> None:
    with pytest.raises(BadInput, match="whose graph is fixed"):
        Svge.check(searched(cells("darts")), configured(Svge))


def test_archs_that_another_rounding_led_to_are_left(tmp_path: Path) -> None:
    settings = {"labels": 10, "rounds": 2, "round_archs": 5, "score_images": 32, "vae_steps": 5}
    path, found = tmp_path / "labels.jsonl", []
    for _ in range(2):
        strategy, steps = in_space("svge", settings)
        strategy.scores = ScoreLog(path)
        strategy.learn(steps(0))
        found.append(path.read_text())
        assert len(ScoreLog(path).rows) == strategy.scores.taken == 3
        first, *rows = map(json.loads, found[0].splitlines())
        rows[0]["without"][0] = "arch of other threads"
        path.write_text("".join(json.dumps(row) + "\n" for row in [first, *rows]))
    assert found[0] == found[1]
