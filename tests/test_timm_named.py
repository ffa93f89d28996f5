"""Networks that have a name in timm: their counts, and MobileNetV2 against timm's own."""

from collections.abc import Callable

import pytest
import timm
import torch
from fvcore.nn import FlopCountAnalysis
from torch import nn

import mobilenas.timm  # noqa: F401  # registers the models
from mobilenas.cost import CostModel
from mobilenas.space import load_space
from mobilenas.space.published import PUBLISHED

Change = Callable[..., nn.Module]


def test_models_are_listed() -> None:
    assert timm.list_models("fairnas*") == ["fairnas_a", "fairnas_b", "fairnas_c"]
    assert timm.list_models("*mobilenas*") == ["mobilenas", "mobilenas_mobilenetv2_100"]
    assert not timm.list_models("mobilenas*", pretrained=True)


@pytest.mark.parametrize(
    ("name", "published", "params", "flops"),
    [
        ("fairnas_a", "fairnas_a", 4_651_352, 388_122_848),
        ("fairnas_b", "fairnas_b", 4_506_272, 345_297_632),
        ("fairnas_c", "fairnas_c", 4_397_864, 321_024_992),
        ("mobilenas_mobilenetv2_100", "mobilenetv2_100", 3_504_872, 300_774_272),
    ],
)
def test_named_networks(name: str, published: str, params: int, flops: int) -> None:
    model = timm.create_model(name)
    assert sum(p.numel() for p in model.parameters()) == params
    reference, arch = PUBLISHED[published]
    assert (model.space.name, str(model.arch)) == (reference, arch)
    assert CostModel(load_space(reference)).flops(model.arch) == flops
    assert model.default_cfg["architecture"] == name
    assert model.default_cfg["input_size"] == (3, 224, 224)
    assert model.default_cfg["crop_pct"] == 0.875


@torch.no_grad()
def test_mobilenetv2_is_timms_own(unlike_fresh: Change) -> None:
    """Same counts, and the same logits with the same weights."""
    theirs, ours = (timm.create_model(n) for n in ("mobilenetv2_100", "mobilenas_mobilenetv2_100"))
    unlike_fresh(theirs).eval()
    own, other = ours.state_dict(), theirs.state_dict()
    assert [v.shape for v in own.values()] == [v.shape for v in other.values()]
    ours.eval().load_state_dict(dict(zip(own, other.values(), strict=True)))
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    expected = theirs(x)
    assert float((ours(x) - expected).abs().max()) < 1e-5 * float(expected.abs().max())
    counted = FlopCountAnalysis(theirs, x[:1])
    counted.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    by_operator = counted.by_operator()
    assert by_operator["conv"] + by_operator["linear"] == CostModel(ours.space).flops(ours.arch)
