"""The rows of a space are its networks taken apart: nothing is missing, nothing is there twice."""

from collections import Counter
from collections.abc import Callable

import torch
from torch import nn

from mobilenas.cost import CostModel
from mobilenas.cost.rows import row_counts, row_flops, rows_of
from mobilenas.latency.graphs import row_jobs
from mobilenas.space import Arch, Space, load_space


def multiply_adds(module: nn.Module, example: torch.Tensor) -> int:
    """Counted while the module runs, without the arithmetic of mobilenas.cost."""
    total = 0

    def count(part: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(part, nn.Conv2d | nn.Linear):
            total += output[0].numel() * part.weight[0].numel()

    for part in module.modules():
        part.register_forward_hook(count)
    module(example)
    return total


def test_rows_add_up_to_the_network(small_space: Space, sample: Callable[..., list[Arch]]) -> None:
    flops, jobs = row_flops(small_space), row_jobs(small_space, batch=1)
    assert set(flops) == {job.key for job in jobs}
    for job in [*jobs[:2], *jobs[2 :: 1 + len(jobs) // 200]]:  # s3 has 5,124
        assert multiply_adds(job.make(), job.example) == flops[job.key]
    cost = CostModel(small_space)
    for arch in sample(small_space, 5):
        rows = row_counts(small_space, arch)
        assert sum(flops[key] * n for key, n in rows.items()) == cost.flops(arch)


def test_jobs_are_the_rows(small_space: Space) -> None:
    keys = [job.key for job in row_jobs(small_space, batch=1)]
    assert Counter(keys) == Counter(rows_of(small_space).distinct)


def test_equal_shapes_share_a_row() -> None:
    # Blocks 3, 4 and 5 of s1 are 48 -> 96 (stride 2), 96 -> 96 and 96 -> 96.
    rows = rows_of(load_space("s1"))
    assert rows.choices[3] == rows.choices[4] != rows.choices[2]
    assert len(rows.distinct) == 2 + 10 * 30


def test_a_key_tells_apart_what_takes_another_time() -> None:
    keys = {
        reference: set(rows_of(load_space(reference)).distinct)
        for reference in (
            "fairnas",
            "fairnas:activation=swish",
            "fairnas:squeeze_excite=0.5",
            "fairnas:resolution=192",
        )
    }
    plain = keys.pop("fairnas")
    blocks = {key for key in plain if key.startswith("block-32x112x112-32") or "e6k7" in key}
    for other in keys.values():
        assert not blocks & other


def test_a_block_without_its_residual_has_a_row_of_its_own() -> None:
    plain = rows_of(load_space("proxyless:width=0.25"))
    everywhere = rows_of(load_space("proxyless:width=0.25,residual_across_stages=true"))
    key = "block-24x14x14-24x14x14-e6k5-relu6"
    assert key in plain.choices[13] and key in everywhere.choices[12]
    assert f"{key}-noresidual" in plain.choices[12]
    assert plain.fixed[1] == f"{everywhere.fixed[1]}-noresidual"


def test_linear_paths_have_the_rows_of_single_paths() -> None:
    each, linear = load_space("s1"), load_space("s1:path_activation=after_sum")
    arch, largest = (each.parse("_".join([text] * 12)) for text in ("e6k357", "e6k7"))
    assert row_counts(linear, arch) == row_counts(linear, largest) == row_counts(each, largest)
    single = rows_of(load_space("s1:candidates.max_paths=1"))
    assert set(rows_of(linear).distinct) == set(single.distinct)
    assert row_flops(linear) == row_flops(load_space("s1:candidates.max_paths=1"))


def test_the_identity_of_a_kept_shape_costs_nothing() -> None:
    macro = load_space("macro")
    rows = rows_of(macro)
    assert rows.choices[0][0] == "block-32x32x32-64x16x16-id"
    assert rows.choices[1][0] is None
    arch = macro.parse("id_id_e3k3_id_id_e6k5_id_id")
    assert row_counts(macro, arch).total() == 2 + 3  # two blocks, and the 1x1 convolution of one
