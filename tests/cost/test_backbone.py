"""Costs of backbones at a detector's image size: equal to what fvcore and torch count there."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from tables import made_up_table
from torch import Tensor, nn

from mobilenas.base.errors import BadInput, InfeasibleBudget
from mobilenas.cost import CostModel
from mobilenas.cost.budget import Budget, LatencyLimit
from mobilenas.cost.rows import rows_of
from mobilenas.nn import Network
from mobilenas.search import check_feasible
from mobilenas.space import Arch, Space, load_space, space_from_dict


class Features(nn.Module):
    """The part of a network that a detector keeps: every feature map, no head."""

    def __init__(self, space: Space, arch: Arch) -> None:
        super().__init__()
        self.network = Network(space, arch)
        self.network.prune_intermediate_layers(None)

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.network.forward_intermediates(x, intermediates_only=True)  # type: ignore[return-value]


def fvcore_flops(module: nn.Module, channels: int, height: int, width: int) -> int:
    analysis = FlopCountAnalysis(module.eval(), torch.zeros(1, channels, height, width))
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return int(analysis.by_operator()["conv"])


def test_flops_and_params_are_those_of_the_features_network(
    small_space: Space, sample: Callable[..., list[Arch]]
) -> None:
    size = (33, 50)
    cost_model = CostModel(small_space.backbone(*size), folded=False)
    (arch,) = sample(small_space, 1, seed=1)
    features = Features(small_space, arch)
    channels = small_space.spec.in_channels
    assert cost_model.flops(arch) == fvcore_flops(features, channels, *size)
    assert cost_model.params(arch) == sum(p.numel() for p in features.parameters())


def test_a_network_at_its_own_size_has_the_head_besides() -> None:
    space = load_space("fairnas")
    arch = space.parse("_".join(["e6k3"] * 18))
    whole, backbone = CostModel(space), CostModel(space.backbone(224, 224))
    head = 320 * 1280 * 49 + 1280 * 1000
    assert whole.flops(arch) - backbone.flops(arch) == head
    assert whole.params(arch) - backbone.params(arch) == 320 * 1280 + 2 * 1280 + 1280 * 1000 + 1000


def test_archs_and_plain_data_are_those_of_the_space(mixed_space: Space) -> None:
    backbone = mixed_space.backbone(800, 1280)
    assert backbone.name == "mixed (backbone at 800x1280 px)"
    assert mixed_space.backbone(96, 96).name == "mixed (backbone at 96 px)"
    assert space_from_dict(backbone.to_dict()).to_dict() == mixed_space.to_dict()
    genes = mixed_space.sample_genes(50, np.random.default_rng(0))
    assert [backbone.decode(row) for row in genes] == [mixed_space.decode(row) for row in genes]


def test_a_budget_of_backbones_that_no_arch_meets_names_the_size() -> None:
    cost_model = CostModel(load_space("s1").backbone(320, 320))
    with pytest.raises(InfeasibleBudget, match=r"no arch of s1 \(backbone at 320 px\) has at most"):
        check_feasible(cost_model, {"flops": 1e6})


def test_latency_needs_rows_of_that_size() -> None:
    space = load_space("macro:resolution=64")
    table = made_up_table(space, "t")
    square, wide = space.backbone(64, 64), space.backbone(64, 96)
    arch = space.sample(np.random.default_rng(0))
    (head,) = set(rows_of(space).fixed) - set(rows_of(square).fixed)
    expected = CostModel(space, [table]).of(arch)["latency_ms@t"] - table.rows[head].ms
    assert CostModel(square, [table]).of(arch)["latency_ms@t"] == pytest.approx(expected)
    with pytest.raises(BadInput, match=r"t is for 64 px, space macro:\S+ \(.*\) has 64x96 px"):
        CostModel(wide, [table])
    with pytest.raises(BadInput, match=r"is for 64 px, space .* has 32 px"):
        CostModel(space.backbone(32, 32), [table])
    with pytest.raises(BadInput, match="no latency table for device"):
        Budget({}, (LatencyLimit("nothing"),)).look_up(wide)


def test_rows_of_another_size_have_other_keys() -> None:
    space = load_space("macro:resolution=64")
    wide = rows_of(space.backbone(64, 96))
    assert wide.fixed[0] == "stem-3x64x96-32x64x96-k3-relu"
    assert not any(key.startswith("head") for key in wide.distinct)
    assert set(wide.distinct).isdisjoint(rows_of(space).distinct)
    assert set(rows_of(space.backbone(64, 64)).distinct) < set(rows_of(space).distinct)
