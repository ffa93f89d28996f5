"""What a few stand-alone accuracies predict of other archs."""

import numpy as np
import pytest
from additive import additive, naswot
from numpy.typing import NDArray
from scipy.stats import kendalltau
from sklearn.gaussian_process import GaussianProcessRegressor

from mobilenas.base.errors import BadInput
from mobilenas.cost import CostModel
from mobilenas.evaluate.predictor import Predictor, check_enough
from mobilenas.space import Genes, load_space

SPACE = load_space("digits")
COSTS = CostModel(SPACE)
Floats = NDArray[np.float64]


def problem(n: int, seed: int = 0) -> tuple[Genes, Floats, Floats]:
    """Archs, what is measured of them, and the truth: of which both measurements know a part."""
    rng = np.random.default_rng(seed)
    genes = np.unique(SPACE.sample_genes(2 * n, rng), axis=0)
    genes = genes[rng.permutation(len(genes))[:n]]
    archs = [SPACE.decode(row) for row in genes]
    truth = np.array(additive(SPACE)(archs))
    supernet = truth + 0.06 * rng.standard_normal(n)
    measured = np.column_stack([0.5 * supernet, naswot(SPACE)(archs)])
    return genes, measured, 0.5 + 0.4 * truth


@pytest.mark.parametrize(("known", "least"), [(16, 0.0), (60, 0.1)])
def test_more_is_known_than_of_what_is_measured_alone(known: int, least: float) -> None:
    genes, measured, truth = problem(300)
    new = slice(known, None)
    predictor = Predictor(COSTS, genes[:known], measured[:known], truth[:known])
    predicted, _ = predictor.predict(genes[new], measured[new])
    alone = (measured - measured.mean(axis=0)) / measured.std(axis=0)
    for feature in (*alone.T, alone.sum(axis=1)):
        gain = kendalltau(predicted, truth[new])[0] - kendalltau(feature[new], truth[new])[0]
        assert gain > least


def test_eight_accuracies_that_are_noise_leave_the_prediction_flat() -> None:
    genes, measured, _ = problem(208)
    noise = 0.7 + 0.01 * np.random.default_rng(5).standard_normal(8)
    mean, deviation = Predictor(COSTS, genes[:8], measured[:8], noise).predict(
        genes[8:], measured[8:]
    )
    assert mean.std() < 0.02 and (deviation > 0.003).all()


def test_company_and_order_do_not_matter() -> None:
    genes, measured, truth = problem(60)
    predictor = Predictor(COSTS, genes[:20], measured[:20], truth[:20])
    whole = predictor.predict(genes[20:], measured[20:])
    one_by_one = [predictor.predict(genes[i : i + 1], measured[i : i + 1]) for i in range(20, 60)]
    np.testing.assert_array_equal(whole, np.concatenate(one_by_one, axis=1))
    backwards = predictor.predict(genes[:19:-1], measured[:19:-1])
    np.testing.assert_array_equal(np.array(whole)[:, ::-1], backwards)


def test_the_deviation_says_how_far_predictions_are_off() -> None:
    genes, measured, truth = problem(260)
    noisy = truth + 0.004 * np.random.default_rng(1).standard_normal(260)
    predictor = Predictor(COSTS, genes[:60], measured[:60], noisy[:60])
    mean, deviation = predictor.predict(genes[60:], measured[60:])
    share = np.mean(abs(mean - noisy[60:]) < deviation)
    assert 0.5 < share < 0.85  # 0.68 of a normal distribution


def test_an_arch_that_is_left_out_is_predicted_without_it() -> None:
    genes, measured, truth = problem(12)
    predictor = Predictor(COSTS, genes, measured, truth)
    features, kernel = predictor._known, predictor._fit.kernel
    score = features[:, 0] + features[:, 1]
    for row, found in enumerate(predictor.left_out()):
        others = np.arange(12) != row
        slope, level = np.polyfit(score[others], truth[others], 1)
        assert slope > 0
        left = truth[others] - level - slope * score[others]
        scale = np.sqrt((left**2).sum() / 9)  # eleven archs, two parameters
        process = GaussianProcessRegressor(kernel, optimizer=None)
        process.fit(features[others], left / scale)
        expected = level + slope * score[row] + scale * process.predict(features[[row]])[0]
        assert found == pytest.approx(expected - truth[others].mean(), abs=1e-9)


def test_archs_that_are_left_out_of_noise_are_in_no_order() -> None:
    taus = []
    for seed in range(12):
        genes, measured, _ = problem(16, seed)
        noise = np.random.default_rng(seed).random(16)
        left_out = Predictor(COSTS, genes, measured, noise).left_out()
        taus.append(kendalltau(left_out, noise).statistic)
    assert -0.4 < np.nanmean(taus) < 0.2  # of the plain mean of the others it is -1


def test_a_line_that_falls_is_no_line() -> None:
    genes, measured, truth = problem(30)
    predictor = Predictor(COSTS, genes, measured, 1.4 - truth)
    assert predictor._fit._slope == 0


def test_archs_of_one_cost_and_one_score_can_be_known() -> None:
    genes, _, truth = problem(10)
    same = np.repeat(genes[:1], 10, axis=0)
    mean, _ = Predictor(COSTS, same, np.ones((10, 2)), truth).predict(genes, np.ones((10, 2)))
    assert np.isfinite(mean).all()


@pytest.mark.parametrize(
    ("accuracy", "message"),
    [
        (np.linspace(0.6, 0.7, 7), "7 stand-alone accuracies are too few.*at least 8"),
        (np.full(9, 0.6), "all 9 stand-alone accuracies are 0.6"),
    ],
)
def test_too_little_is_refused(accuracy: Floats, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        check_enough(accuracy)
    genes, measured, _ = problem(len(accuracy))
    with pytest.raises(BadInput, match=message):
        Predictor(COSTS, genes, measured, accuracy)


def test_measurements_that_are_no_numbers_are_refused() -> None:
    genes, measured, truth = problem(9)
    measured[3, 1] = np.nan
    with pytest.raises(BadInput, match="NASWOT must be finite"):
        Predictor(COSTS, genes, measured, truth)
