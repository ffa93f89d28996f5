"""What people read on the terminal: spaces, tables, and the arch that is picked of a front."""

from collections.abc import Callable
from typing import Any

import pytest

from mobilenas.base.errors import BadInput
from mobilenas.base.units import format_size
from mobilenas.cost import CostModel
from mobilenas.report.text import (
    cost_lines,
    describe_space,
    format_number,
    front_table,
    space_facts,
    table,
    trained_accuracy,
)
from mobilenas.search.front import pick_arch
from mobilenas.space import Arch, Space, load_space


def row(arch: str, flops: int, accuracy: float) -> dict[str, Any]:
    return {"arch": arch, "flops": flops, "params": 10 * flops, "accuracy": accuracy}


# The line from cheap to best is 0.60 to 0.80 over 100 to 500: bend is 0.13 above it, near 0.04.
FRONT = [row("cheap", 100, 0.60), row("bend", 200, 0.78), row("near", 400, 0.79)]
FRONT += [row("best", 500, 0.80)]


def test_numbers_of_archs_of_any_size() -> None:
    assert [format_number(n, 3) for n in (6561, 5**80, 5**435)] == [
        "6.56e+03",
        "8.27e+55",
        "10^304",
    ]


def test_a_space_is_described_layer_by_layer(small_space: Space) -> None:
    text = describe_space(space_facts(CostModel(small_space), {}))
    lines = text.splitlines()
    for block in small_space.layers:
        line = next(line for line in lines if line.startswith(f"{block.name} "))
        assert f"{block.in_channels} -> {block.out_channels}" in line
        assert "/".join(map(str, block.kernels)) in line
        assert f" {len(block.candidates)} " in line
        assert (f"1 to {block.max_paths} paths" in line) == (block.max_paths > 1)
        assert line.endswith("identity") == any(c.is_identity for c in block.candidates)
    assert lines[0].startswith(f"{small_space.name}: ")
    assert f"{small_space.num_archs:.3g} archs" in text
    assert "share" not in text
    assert "% of the space" not in text


def test_facts_agree_with_the_cost_model(
    mixed_space: Space, sample: Callable[..., list[Arch]]
) -> None:
    limits = {"flops": CostModel(mixed_space).range("flops").median}
    facts = space_facts(CostModel(mixed_space), limits)
    assert facts["choices"] == [2, 3, 5, 13, 4]
    assert facts["num_archs"] == 2 * 3 * 5 * 13 * 4
    assert facts["searched_blocks"] == 5
    assert len(facts["blocks"]) == len(mixed_space.layers) == 6
    for arch in sample(mixed_space, 50):
        flops = CostModel(mixed_space).flops(arch)
        assert facts["flops"]["minimum"] <= flops <= facts["flops"]["maximum"]
    assert abs(facts["feasible_share"] - 0.5) < 0.02
    share = f"{100 * facts['feasible_share']:.1f} % of the space has flops <= "
    assert describe_space(facts).endswith(share + format_size(limits["flops"]))


def test_a_budget_that_hardly_any_arch_meets_is_told_from_one_that_none_does(
    mixed_space: Space,
) -> None:
    facts = space_facts(CostModel(mixed_space), {"flops": 1.0})
    assert "\nno arch of the space has flops <= " in describe_space(facts)
    facts["limits"] = {"flops": facts["flops"]["minimum"]}
    assert "\nless than 0.1 % of the space has flops <= " in describe_space(facts)


def test_cost_lines_give_smallest_median_and_largest() -> None:
    extent = {"minimum": 1_500, "median": 2_000_000, "maximum": 3 * 10**9}
    lines = cost_lines({"flops": extent, "params": extent}).splitlines()
    assert lines[0].split() == ["min", "median", "max"]
    assert lines[1].split() == ["flops", "1.5k", "2M", "3G"]
    assert lines[2].split() == ["params", "1.5k", "2M", "3G"]


def test_cost_lines_have_units_and_are_in_columns() -> None:
    latency = {"minimum": 0.0123456, "median": 12.3456, "maximum": 2000.0}
    memory = {"minimum": 1_500, "median": 2_000_000, "maximum": 3 * 10**9}
    lines = cost_lines({"memory": memory, "latency_ms@a-long-name": latency}).splitlines()
    assert lines[1].split() == ["memory", "1.5kB", "2MB", "3GB"]
    assert lines[2].split("  ")[0] == "latency@a-long-name"
    assert lines[2].split()[1:] == ["0.01235", "ms", "12.35", "ms", "2000", "ms"]
    assert len({len(line) for line in lines}) == 1


def test_a_table_is_in_columns_with_shares_and_sizes() -> None:
    rows = [
        {"name": "small", "flops": 1_234_567, "accuracy": 0.5, "left": "out"},
        {"name": "the largest", "flops": 500, "accuracy": 0.98765, "left": "out"},
    ]
    lines = table(rows, {"name": "arch", "flops": "FLOPs", "accuracy": "top-1"}).splitlines()
    assert lines == [
        "arch         FLOPs   top-1",
        "small        1.235M  50.00 %",
        "the largest  500     98.77 %",
    ]
    assert table([], {"name": "arch"}) == "arch"


def test_a_front_is_a_table_of_its_archs() -> None:
    lines = front_table(FRONT).splitlines()
    assert lines[0].split() == ["accuracy", "FLOPs", "params", "arch"]
    assert [line.split()[-1] for line in lines[1:]] == ["cheap", "bend", "near", "best"]
    assert lines[2].split() == ["78.00", "%", "200", "2k", "bend"]


def test_a_front_has_a_column_for_each_cost_of_its_rows() -> None:
    rows = [FRONT[0] | {"memory": 2_500, "latency_ms@phone": 12.3456, "feasible": True}]
    head, line = front_table(rows).splitlines()
    assert head.split() == ["accuracy", "FLOPs", "params", "memory", "latency@phone", "arch"]
    assert line.split() == ["60.00", "%", "100", "1k", "2.5kB", "12.35", "ms", "cheap"]


@pytest.mark.parametrize(
    ("pick", "arch"), [("best", "best"), ("cheapest", "cheap"), ("knee", "bend")]
)
@pytest.mark.parametrize("order", [1, -1])
def test_an_arch_is_picked(pick: str, arch: str, order: int) -> None:
    assert pick_arch(FRONT[::order], pick) == arch


def test_the_cost_that_was_searched_decides_what_is_cheap() -> None:
    latencies = {"cheap": 9.0, "bend": 2.0, "near": 3.0, "best": 10.0}
    front = [row | {"latency_ms@a": latencies[row["arch"]]} for row in FRONT]
    assert pick_arch(front, "cheapest", "latency_ms@a") == "bend"
    assert pick_arch(front, "knee", "latency_ms@a") == "near"
    assert pick_arch(front, "cheapest") == "cheap"


def test_a_search_by_score_is_shown_and_picked_by_it() -> None:
    scores = {"cheap": -1.0, "bend": -0.5, "near": 2.5, "best": 2.6}
    front = [row | {"score": scores[row["arch"]], "naswot": 700.126} for row in FRONT]
    assert pick_arch(front, "knee") == "near"
    assert pick_arch([*front[:3], front[3] | {"score": 2.0}], "best") == "near"
    equals = [front[0] | {"arch": "worse", "score": -2.0, "accuracy": 0.99}, *front]
    assert pick_arch(equals, "cheapest") == "cheap"
    head, line, *_ = front_table(front).splitlines()
    assert head.split() == ["score", "accuracy", "naswot", "FLOPs", "params", "arch"]
    assert line.split() == ["-1.00", "60.00", "%", "700.13", "100", "1k", "cheap"]


def test_a_network_was_trained_whatever_its_name() -> None:
    space = load_space("macro")
    names = ("id_id_id_e3k3_id_id_id_id", "id_id_id_id_e3k3_id_id_id")
    known = {str(space.canonical(space.parse(names[0]))): 0.9}
    for front in ([row(name, 100, 0.5)] for name in (*names, "id_id_id_id_id_id_id_id")):
        found = {"front": front, "settings": {"space": space.to_dict()}}
        trained = trained_accuracy(found | {"truth": {"accuracy": known}})
        assert ("90.00 %" in front_table(front, trained)) == (front[0]["arch"] in names)
        assert trained_accuracy(found) == {}


@pytest.mark.parametrize("pick", ["best", "cheapest", "knee"])
def test_of_one_arch_any_pick_is_that(pick: str) -> None:
    assert pick_arch([row("only", 100, 0.5)], pick) == "only"
    assert pick_arch([row("only", 100, 0.0)], pick) == "only"


def test_equals_are_picked_by_the_other_value() -> None:
    front = [row("dear", 300, 0.7), row("good", 100, 0.7), row("bad", 100, 0.6)]
    assert pick_arch(front, "best") == "good"
    assert pick_arch(front, "cheapest") == "good"


def test_another_pick_names_the_known_ones() -> None:
    with pytest.raises(BadInput, match="--pick worst: choose one of best, knee, cheapest"):
        pick_arch(FRONT, "worst")


def test_the_shipped_default_space_is_described() -> None:
    text = describe_space(
        space_facts(CostModel(load_space("s1")), {"flops": 500_000_000, "params": 5 * 10**6})
    )
    assert "flops <= 500M and params <= 5M" in text
