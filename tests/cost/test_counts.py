"""FLOPs and params: equal to published numbers, to fvcore and torch, and to enumeration."""

import json
import subprocess
import sys
from collections.abc import Callable
from itertools import chain, groupby, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fvcore.nn import FlopCountAnalysis

from mobilenas.base.errors import BadInput
from mobilenas.cost import CostModel, supernet_params
from mobilenas.nn import Network, fold_batch_norm
from mobilenas.space import Arch, Space, load_space, space_from_dict
from mobilenas.space.published import PUBLISHED

FAIRNAS = ("fairnas_a", "fairnas_b", "fairnas_c")
MACRO = load_space("macro")
MACRO_OPS = ("id", "e3k3", "e6k5")


def fairnas_arch(name: str) -> Arch:
    return Arch.parse(PUBLISHED[name][1])


def macro_arch(code: str) -> Arch:
    return Arch.parse("_".join(MACRO_OPS[int(op)] for op in code))


def fvcore_flops(network: torch.nn.Module, space: Space) -> int:
    """Multiply-adds of convolution and linear layers, as a tracer sees them."""
    images = torch.zeros(1, space.spec.in_channels, space.resolution, space.resolution)
    analysis = FlopCountAnalysis(network.eval(), images)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    by_operator = analysis.by_operator()
    return int(by_operator["conv"] + by_operator["linear"])


@pytest.mark.parametrize(
    ("block", "mflops", "mparams"),
    [
        ("e3k3", 242.8, 2.89),
        ("e6k3", 458.4, 5.34),
        ("e6k9", 561.9, 6.13),
        ("e3k35", 260.7, 3.04),
        ("e6k35", 494.4, 5.64),
        ("e3k3579", 354.2, 3.77),
        ("e6k3579", 681.3, 7.11),
    ],
)
def test_s1_archs_of_one_kind_of_block(block: str, mflops: float, mparams: float) -> None:
    space = load_space("s1")
    cost, arch = CostModel(space), space.parse("_".join([block] * 12))
    assert round(cost.flops(arch) / 1e6, 1) == mflops
    assert round(cost.params(arch) / 1e6, 2) == mparams


def test_s1_supernet_params() -> None:
    space = load_space("s1")
    assert supernet_params(space) == 10_474_602
    assert supernet_params(space, shadow_bn=False) == 10_449_258


@pytest.mark.parametrize(
    ("name", "flops", "params", "published"),
    [
        ("fairnas_a", 388_122_848, 4_651_352, (388, 4.6)),
        ("fairnas_b", 345_297_632, 4_506_272, (345, 4.5)),
        ("fairnas_c", 321_024_992, 4_397_864, (321, 4.4)),
    ],
)
def test_published_fairnas_networks(
    name: str, flops: int, params: int, published: tuple[int, float]
) -> None:
    cost, arch = CostModel(load_space("fairnas")), fairnas_arch(name)
    assert (cost.flops(arch), cost.params(arch)) == (flops, params)
    assert round(flops / 1e6) == published[0]
    assert params / 1e6 == pytest.approx(published[1], abs=0.0515)  # A is given as 4.6, not 4.7


@pytest.mark.parametrize(
    ("ratio", "mparams"), [(0.5, (5.88, 5.69, 5.55)), (1.0, (7.10, 6.87, 6.70))]
)
def test_published_fairnas_networks_with_squeeze_excite(
    ratio: float, mparams: tuple[float, ...]
) -> None:
    cost = CostModel(load_space(f"fairnas:squeeze_excite={ratio},activation=swish"))
    counted = tuple(round(cost.params(fairnas_arch(name)) / 1e6, 2) for name in FAIRNAS)
    assert counted == mparams


@pytest.mark.parametrize(
    ("name", "mflops", "params"),
    [  # FLOPs of the released code's README, params of the pytorchcv model table
        ("proxyless_mobile", 320, 4_080_512),
        ("proxyless_mobile_14", 581, 6_857_568),
        ("proxyless_cpu", None, 4_361_648),
        ("proxyless_gpu", None, 7_119_848),
    ],
)
def test_published_proxyless_networks(
    name: str, mflops: int | None, params: int, data_root: Path
) -> None:
    networks = json.loads((data_root / "latency" / "published_nets.json").read_text())
    network = next(network for network in networks if network["name"] == name)
    stages = [list(blocks) for _, blocks in groupby(network["blocks"], key=lambda b: b["cout"])]
    texts = [[f"e{b['t']}k{b['k']}" for b in blocks] for blocks in stages[1:]]  # the first is fixed
    channels = [network["first_conv"], *dict.fromkeys(b["cout"] for b in network["blocks"])]
    space = load_space(f"proxyless:channels={[*channels, network['feature_mix']['cout']]}")
    counts = (stage.blocks for stage in space.spec.stages[1:])
    whole = [(t + ["id"] * 4)[:count] for t, count in zip(texts, counts, strict=True)]
    cost, arch = CostModel(space), space.parse("_".join(chain(*whole)))
    assert cost.params(arch) == params
    assert mflops is None or round(cost.flops(arch) / 1e6) == mflops


@pytest.mark.parametrize("name", FAIRNAS)
def test_fairnas_networks_at_full_size_equal_fvcore(name: str) -> None:
    space = load_space("fairnas")
    cost, network = CostModel(space), Network(space, fairnas_arch(name))
    assert cost.flops(network.arch) == fvcore_flops(network, space)
    assert cost.params(network.arch) == sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("max_paths", "median", "share"),
    [(1, 385, 99.9), (2, 407, 98.7), (3, 429, 94.0), (4, 451, 83.8)],
)
def test_s1_as_it_is_sampled(max_paths: int, median: float, share: float) -> None:
    space = load_space(f"s1:candidates.max_paths={max_paths}")
    rng = np.random.default_rng(0)
    genes = np.array([space.encode(space.sample(rng)) for _ in range(2000)])
    flops = CostModel(space).flops_batch(genes)
    # standard errors at n = 2,000: about 1.3M of the median, 0.8 points of the share
    assert np.median(flops) / 1e6 == pytest.approx(median, abs=5)
    assert 100 * np.mean(flops <= 500e6) == pytest.approx(share, abs=3)


@pytest.mark.parametrize(
    ("code", "params", "flops"),
    [
        ("00000000", 387_882, 7_713_280),
        ("22212220", 1_985_514, 85_164_544),
        ("22212202", 1_985_514, 85_164_544),
        ("22222222", 2_932_586, 105_660_928),
    ],
)
def test_published_entries_of_nas_bench_macro(code: str, params: int, flops: int) -> None:
    cost, arch = CostModel(MACRO), macro_arch(code)
    assert (cost.params(arch), cost.flops(arch)) == (params, flops)


def test_all_of_nas_bench_macro(data_root: Path) -> None:
    path = data_root / "nas_bench_macro" / "nas-bench-macro_cifar10.json"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    table: dict[str, Any] = json.loads(path.read_text())
    assert len(table) == MACRO.num_archs == 6561
    cost = CostModel(MACRO)
    genes = np.array([MACRO.encode(macro_arch(code)) for code in table])
    assert cost.flops_batch(genes).tolist() == [row["flops"] for row in table.values()]
    assert cost.batch("params", genes).tolist() == [row["params"] for row in table.values()]


def check_against_second_sources(space: Space, arch: Arch) -> None:
    cost, network = CostModel(space, folded=False), Network(space, arch)
    assert cost.flops(arch) == fvcore_flops(network, space), arch
    assert cost.params(arch) == sum(p.numel() for p in network.parameters()), arch
    folded = fold_batch_norm(network)
    assert CostModel(space).flops(arch) == fvcore_flops(folded, space), arch


def test_random_archs_equal_fvcore_and_torch(
    small_space: Space, sample: Callable[..., list[Arch]]
) -> None:
    for arch in sample(small_space, 3):
        check_against_second_sources(small_space, arch)


def test_every_candidate_of_a_mixed_space_equals_fvcore_and_torch(mixed_space: Space) -> None:
    most = max(len(block.candidates) for block in mixed_space.blocks)
    for i in range(most):
        genes = [i % len(block.candidates) for block in mixed_space.blocks]
        check_against_second_sources(mixed_space, mixed_space.decode(np.array(genes)))


@pytest.mark.parametrize("reference", ["s1:resolution=27", "macro:resolution=15,stem.kernel=5"])
def test_odd_sizes_equal_fvcore_and_torch(
    reference: str, sample: Callable[..., list[Arch]]
) -> None:
    space = load_space(f"{reference},width=0.2,divisor=4")
    for arch in sample(space, 3):
        check_against_second_sources(space, arch)


def test_linear_paths_cost_what_the_largest_kernel_alone_does(
    sample: Callable[..., list[Arch]], mixed_data: dict[str, Any]
) -> None:
    """And with all paths what paths with activations do, but for the batch norm after the sum."""
    for data in (mixed_data, load_space("s1:squeeze_excite=0.25").to_dict()):
        each, linear = (
            space_from_dict(data | {"path_activation": w}) for w in ("each", "after_sum")
        )
        as_each, folded, as_trained = (
            CostModel(each),
            CostModel(linear),
            CostModel(linear, folded=False),
        )
        for arch in sample(linear, 5):
            pairs = zip(linear.blocks, arch.blocks, strict=True)
            largest = Arch(tuple(block.folded(candidate) for block, candidate in pairs))
            assert folded.of(arch) == as_each.of(largest)
            layers = zip(linear.layers, linear.candidates_of(arch), strict=True)
            hidden = sum(block.in_channels * candidate.expansion for block, candidate in layers)
            with_norms = as_each.of(arch)
            with_norms["params"] += 2 * hidden
            assert as_trained.of(arch) == with_norms
        assert as_each.of(arch) == CostModel(each, folded=False).of(arch)


def test_batch_equals_one_by_one(small_space: Space) -> None:
    cost = CostModel(small_space)
    genes = small_space.sample_genes(20, np.random.default_rng(1))
    archs = [small_space.decode(row) for row in genes]
    assert cost.flops_batch(genes).tolist() == [cost.flops(arch) for arch in archs]
    assert cost.batch("params", genes).tolist() == [cost.params(arch) for arch in archs]
    assert cost.batch("flops", genes).tolist() == cost.flops_batch(genes).tolist()
    assert cost.batch("params", genes[:0]).shape == (0,)


def test_a_hundred_thousand_archs_at_once() -> None:
    space = load_space("s2")
    flops = CostModel(space).flops_batch(space.sample_genes(100_000, np.random.default_rng(0)))
    assert flops.shape == (100_000,)
    assert flops.dtype == np.int64


@pytest.fixture(scope="module")
def all_macro() -> dict[str, np.ndarray]:
    """Both costs of all 6,561 archs of the macro space."""
    genes, cost = np.array(list(product(range(3), repeat=8))), CostModel(MACRO)
    return {name: cost.batch(name, genes) for name in ("flops", "params")}


@pytest.mark.parametrize("name", ["flops", "params"])
def test_range_equals_enumeration(name: str, all_macro: dict[str, np.ndarray]) -> None:
    values, found = all_macro[name], CostModel(MACRO).range(name)
    assert (found.minimum, found.maximum) == (values.min(), values.max())
    assert found.median == pytest.approx(np.median(values), rel=0.02)


def test_range_of_blocks_with_different_numbers_of_candidates(mixed_space: Space) -> None:
    cost = CostModel(mixed_space)
    choices = [range(len(block.candidates)) for block in mixed_space.blocks]
    for name in ("flops", "params"):
        values = cost.batch(name, np.array(list(product(*choices))))
        found = cost.range(name)
        assert (found.minimum, found.maximum) == (values.min(), values.max())


@pytest.mark.parametrize(
    "limits",
    [
        {"flops": 60e6},
        {"params": 1.5e6},
        {"flops": 60e6, "params": 1.5e6},
        {"flops": 7_713_280},
        {"flops": 1},
        {},
    ],
)
def test_feasible_share_equals_enumeration(
    limits: dict[str, float], all_macro: dict[str, np.ndarray]
) -> None:
    meets = np.ones(6561, dtype=bool)
    for name, limit in limits.items():
        meets &= all_macro[name] <= limit
    share = CostModel(MACRO).feasible_share(limits)
    assert share == pytest.approx(meets.mean(), abs=0.018)  # 5 sigma at n = 20,000


@pytest.mark.parametrize(
    "ask",
    [
        lambda cost: cost.batch("energy", np.zeros((1, 8), dtype=int)),
        lambda cost: cost.range("energy"),
        lambda cost: cost.feasible_share({"energy": 3}),
    ],
    ids=["batch", "range", "feasible_share"],
)
def test_an_unknown_cost_is_answered_with_the_known_ones(
    ask: Callable[[CostModel], object],
) -> None:
    with pytest.raises(BadInput, match="no cost 'energy'; known are flops, params, memory"):
        ask(CostModel(MACRO))


def test_an_arch_of_another_space_is_refused() -> None:
    with pytest.raises(BadInput, match="block"):
        CostModel(MACRO).flops(fairnas_arch("fairnas_a"))


def test_spaces_and_costs_import_none_of_the_heavy_libraries() -> None:
    code = "import sys, mobilenas.space, mobilenas.cost; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert "mobilenas.cost" in loaded
    assert not loaded & {"torch", "torchvision", "timm", "onnx", "pymoo", "fvcore", "matplotlib"}
