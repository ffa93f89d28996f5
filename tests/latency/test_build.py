"""Which networks a table is fitted to and checked with, and what the figures of a check mean."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from tables import made_up_table
from torch import nn

from mobilenas.base.errors import BadInput
from mobilenas.cost import CostModel
from mobilenas.latency.check import figures
from mobilenas.latency.graphs import network_job
from mobilenas.latency.networks import control_arch, design, held_out, spread
from mobilenas.runs.folder import RunFolder
from mobilenas.space import Space, load_space, space_from_dict


def test_every_candidate_of_a_design_is_chosen_equally_often(mixed_space: Space) -> None:
    genes = spread(mixed_space, 60, np.random.default_rng(0))
    for column, size in zip(genes.T, mixed_space.num_candidates, strict=True):
        counts = np.bincount(column, minlength=size)
        assert counts.max() - counts.min() <= 1
    archs = design(mixed_space, 60, seed=0)
    assert len(set(archs)) == 60 and control_arch(mixed_space) not in archs


@pytest.mark.parametrize("name", ["s1", "s2", "macro", "proxyless"])
def test_networks_are_timed_over_the_whole_range_of_costs(name: str) -> None:
    space = load_space(name)
    costs, rng = CostModel(space), np.random.default_rng(0)
    timed = costs.flops_batch(spread(space, 200, rng))
    drawn = costs.flops_batch(np.array([space.encode(space.sample(rng)) for _ in range(200)]))
    extent = costs.range("flops")
    shares = [
        (flops - extent.minimum) / (extent.maximum - extent.minimum) for flops in (timed, drawn)
    ]
    assert shares[0].min() < 0.05 and shares[0].max() > 0.9
    assert np.mean(shares[0] < shares[1].min()) > 0.05  # what a search under a budget comes to
    assert 0.35 < np.median(shares[0]) < 0.6


def test_held_out_networks_are_held_out(mixed_space: Space) -> None:
    table = made_up_table(mixed_space)
    first = held_out(mixed_space, table, 20, seed=0)
    used = table.calibration.model_copy(update={"archs": tuple(map(str, first[:10]))})
    second = held_out(mixed_space, table.model_copy(update={"calibration": used}), 20, seed=0)
    assert len(set(second)) == 20 and not set(first[:10]) & set(second)
    assert control_arch(mixed_space) not in second


def test_timings_from_before_a_key_of_spaces_was_added_go_on(tmp_path: Path) -> None:
    path, settings = tmp_path / "build.json", {"space": load_space("macro").to_dict(), "seed": 0}
    start = partial(RunFolder.start_or_resume, tmp_path, "latency")
    old = {k: v for k, v in settings["space"].items() if k != "path_activation"}
    path.write_text(json.dumps(settings | {"space": old}))
    assert start(settings, resume=True).settings == json.loads(json.dumps(settings))
    other = load_space("macro:path_activation=after_sum").to_dict()
    with pytest.raises(BadInput, match="another space"):
        start(settings | {"space": other}, resume=True)
    with pytest.raises(BadInput, match="already holds a run"):
        start(settings, resume=False)


def test_figures_of_known_predictions() -> None:
    measured = np.array([1.0, 2.0, 4.0, 10.0])
    got = figures(np.array([1.04, 1.84, 4.0, 12.0]), measured)
    assert got.within_5_percent == 0.5 and got.within_10_percent == 0.75
    assert got.mape == pytest.approx((0.04 + 0.08 + 0 + 0.2) / 4)
    assert got.bias == pytest.approx((0.04 - 0.08 + 0 + 0.2) / 4)
    assert got.rmse_ms == pytest.approx(np.sqrt((0.04**2 + 0.16**2 + 4) / 4))
    assert got.spearman == got.kendall == pytest.approx(1)


TWO = {
    "name": "two",
    "description": "two archs",
    "resolution": 8,
    "num_classes": 2,
    "stem": {"channels": 4},
    "candidates": ["e2k3", "e2k5"],
    "stages": [{"channels": 4}],
    "head": {"channels": 4},
}


def test_the_control_network_is_nowhere_else() -> None:
    space = space_from_dict(TWO)
    (other,) = {space.parse("e2k3"), space.parse("e2k5")} - {control_arch(space)}
    assert design(space, 8, seed=0) == [other]
    assert held_out(space, made_up_table(space), 1, seed=0) == [other]


def test_no_network_has_weights_or_biases_of_nothing_but_zeros(small_space: Space) -> None:
    # Residual blocks are trained from a projection of zeros, which a runtime could skip, and all
    # from biases of zeros, which exporters leave out.
    arch = small_space.decode(small_space.num_candidates - 1)
    module = network_job(small_space, arch, batch=1).make()
    for name, part in module.named_modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            assert part.weight.abs().max() > 0, name
            assert part.bias is not None and part.bias.abs().max() > 0, name


def test_too_few_archs_to_check() -> None:
    space = space_from_dict(TWO)
    with pytest.raises(BadInput, match="two has no 5 archs that the table was not fitted to"):
        held_out(space, made_up_table(space), 5, seed=0)
