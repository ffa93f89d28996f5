"""Budgets of latency and memory through the commands, with tables that were made up."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import MACRO_ARCH, TINY_SPACE, Call, Job, check_refused, contents
from tables import made_up_table

from mobilenas.cost import CostModel
from mobilenas.cost.latency import write_table
from mobilenas.space import load_space

SPACE = load_space(TINY_SPACE)
FAST = made_up_table(SPACE, "fast", device="board", wobble=1)
SLOW = made_up_table(SPACE, "slow", ms_per_mflop=10, wobble=1)
SMALL = ("--population=4", "--generations=2")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder whose latency_tables hold `fast` (of board) and `slow` (of a phone)."""
    monkeypatch.chdir(tmp_path)
    for table in (FAST, SLOW):
        write_table(tmp_path / "latency_tables", table)
    return tmp_path


def evolve(call: Call, job: Job, *arguments: str, out: str = "evolve") -> list[dict[str, Any]]:
    """The rows of all archs that a small search evaluated."""
    outcome = call("evolve", f"--supernet={job.supernet}", *SMALL, *arguments, f"--out={out}")
    assert outcome.code == 0, outcome.err
    return [json.loads(line) for line in Path(out, "evaluations.jsonl").open()]


def objectives(out: str = "evolve") -> list[str]:
    found: list[str] = json.loads(Path(out, "run.json").read_text())["settings"]["objectives"]
    return found


def test_a_latency_budget_limits_and_is_the_objective(job: Job, call: Call) -> None:
    rows = evolve(call, job, "--latency=16000us@made-up-phone", "--memory=100kB")
    cost_model = CostModel(SPACE, [SLOW])
    for row in rows:
        costs = cost_model.of(SPACE.parse(row["arch"]))
        assert {cost: row[cost] for cost in cost_model.costs} == costs
        assert row["latency_ms@slow"] <= 16 and row["memory"] <= 100_000
    assert objectives() == ["score", "latency_ms@slow"]
    front = json.loads(Path("evolve/front.json").read_text())
    assert front["settings"]["limits"] == {"memory": 100_000, "latency_ms@slow": 16.0}
    latencies = [row["latency_ms@slow"] for row in front["front"]]
    assert latencies == sorted(latencies)
    before = contents(Path("evolve"))
    shown = call("evolve", "--out=evolve", "--resume")
    assert shown.code == 0, shown.err
    head = ["score", "accuracy", "naswot", "FLOPs", "params", "memory", "latency@slow"]
    assert shown.out.split()[:7] == head
    assert f"{latencies[0]:.4g} ms" in shown.out
    assert contents(Path("evolve")) == before


def test_several_tables_at_once_and_one_without_a_limit(job: Job, call: Call) -> None:
    rows = evolve(call, job, "--latency=16ms@slow", "--latency=@board")
    assert objectives() == ["score", "latency_ms@slow", "latency_ms@fast"]
    assert all(row["latency_ms@slow"] <= 16 and row["latency_ms@fast"] > 0 for row in rows)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("accuracy,flops", ["accuracy", "flops"]),
        ("accuracy,latency", ["accuracy", "latency_ms@fast"]),
        ("accuracy,memory,latency@board", ["accuracy", "memory", "latency_ms@fast"]),
    ],
)
def test_objectives_by_word(words: str, names: list[str], job: Job, call: Call) -> None:
    rows = evolve(call, job, "--latency=@board", f"--objectives={words}")
    assert objectives() == names
    assert "latency_ms@fast" in rows[0]


def test_a_table_may_be_a_file_and_is_found_again(
    job: Job, call: Call, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    write_table(folder, made_up_table(SPACE, "mine"))
    evolve(call, job, "--latency=@mine.json")
    before = contents(folder / "evolve")
    monkeypatch.chdir("/")
    outcome = call("evolve", f"--out={folder / 'evolve'}", "--resume")
    assert outcome.code == 0, outcome.err
    assert contents(folder / "evolve") == before
    (folder / "mine.json").unlink()
    check_refused(call("evolve", f"--out={folder / 'evolve'}", "--resume"), "mine.json")


def test_a_resume_compares_the_content_of_the_table(job: Job, call: Call) -> None:
    evolve(call, job, "--latency=16ms@slow")
    file = Path("latency_tables/slow.json")
    table = json.loads(file.read_text())
    before = contents(Path("evolve"))
    resume = ("evolve", "--out=evolve", "--resume")
    file.write_text(json.dumps(dict(reversed(table.items()))))
    assert call(*resume).code == 0
    table["overhead_ms"] += 1000  # so that the budget is infeasible, which is not the point
    file.write_text(json.dumps(table))
    check_refused(call(*resume), "evolve was started with another latency_tables", "slow")
    file.unlink()
    check_refused(call(*resume), "'slow'", "known devices: board")
    assert contents(Path("evolve")) == before


@pytest.mark.parametrize(
    "other", ["--latency=15ms@slow", "--latency=@slow", "--latency=16ms@fast", "--flops=1M"]
)
def test_a_resume_with_another_budget_is_refused(other: str, job: Job, call: Call) -> None:
    evolve(call, job, "--latency=16ms@slow")
    outcome = call("evolve", "--out=evolve", "--resume", other)
    check_refused(outcome, "evolve was started with another limits", "16.0")


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("parents", {}, "which supernet it was made from"),
        ("parents", {"supernet": 3}, "parents: supernet: must be a path"),
        ("settings", {"limits": 3}, "limits"),
        ("settings", {"objectives": None}, "objectives"),
    ],
)
def test_a_damaged_search_is_refused_by_name(
    key: str, value: Any, told: str, job: Job, folder: Path, call: Call
) -> None:
    stored = json.loads((job.search / "run.json").read_text())
    value = stored[key] | value if value else value
    (folder / "run.json").write_text(json.dumps(stored | {key: value}))
    check_refused(call("evolve", f"--out={folder}", "--resume"), "run.json", told)


@pytest.mark.parametrize("places", [{}, {"supernet": 3}, {"latency_tables": []}, []])
def test_a_damaged_search_of_before_is_refused(places: Any, folder: Path, call: Call) -> None:
    (folder / "search.json").write_text(json.dumps({"limits": {}, "places": places}))
    check_refused(call("evolve", f"--out={folder}", "--resume"), str(folder))


def test_the_cheapest_of_a_front_is_that_of_its_own_cost(job: Job, call: Call) -> None:
    evolve(call, job, "--latency=@slow")
    front = json.loads(Path("evolve/front.json").read_text())["front"]
    outcome = call("export", "--onnx", "--run=evolve", "--pick=cheapest", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["metadata"]["arch"] == front[0]["arch"]


def test_an_infeasible_latency_exits_with_3_and_the_range(job: Job, call: Call) -> None:
    extent = CostModel(SPACE, [SLOW]).range("latency_ms@slow")
    low, high = f"{extent.minimum:.4g} ms", f"{extent.maximum:.4g} ms"
    outcome = call("evolve", f"--supernet={job.supernet}", "--latency=1ms@slow", "--out=evolve")
    check_refused(outcome, "at most 1 ms latency@slow", low, high, code=3)
    outcome = call("evolve", f"--supernet={job.supernet}", "--memory=1k", "--out=evolve")
    check_refused(outcome, "at most 1kB memory", "kB to", code=3)
    assert not Path("evolve").exists()


REFUSED = {
    "unit": (["--latency=20xs@slow"], ["'20xs'", "us, ms or s"]),
    "no device": (["--latency=20ms"], ["'20ms'", "20ms@DEVICE"]),
    "unknown device": (["--latency=20ms@radio"], ["'radio'", "board", "made-up-phone"]),
    "no file": (["--latency=20ms@none.json"], ["none.json"]),
    "twice": (["--latency=@slow", "--latency=9s@made-up-phone"], ["slow is given twice"]),
    "memory": (["--memory=20ms"], ["'20ms'", "500M"]),
    "zero": (["--latency=0ms@slow"], ["at most 0 ms"]),
}
OF_A_SEARCH = {
    "no table": (["--objectives=accuracy,latency"], ["--latency @DEVICE"]),
    "which table": (
        ["--objectives=accuracy,latency", "--latency=@slow", "--latency=@fast"],
        ["slow, fast", "latency@NAME"],
    ),
    "another table": (
        ["--objectives=accuracy,latency@fast", "--latency=@slow"],
        ["latency@fast", "given: slow"],
    ),
    "another cost": (["--objectives=accuracy,watts", "--latency=@slow"], ["latency_ms@slow"]),
}


@pytest.mark.parametrize("name", [*REFUSED, *OF_A_SEARCH])
def test_bad_budgets_are_refused_and_leave_nothing(name: str, job: Job, call: Call) -> None:
    arguments, words = (REFUSED | OF_A_SEARCH)[name]
    search = call("evolve", f"--supernet={job.supernet}", *arguments, "--out=evolve")
    check_refused(search, *words, code=3 if name == "zero" else 2)
    assert not Path("evolve").exists()


@pytest.mark.parametrize("name", [name for name in REFUSED if name != "zero"])
def test_space_show_refuses_the_same(name: str, call: Call) -> None:
    arguments, words = REFUSED[name]
    check_refused(call("space", "show", TINY_SPACE, *arguments), *words)


def test_tables_of_another_space_or_resolution_or_two_of_a_device(call: Call, folder: Path) -> None:
    show = ("space", "show", TINY_SPACE)
    write_table(folder, made_up_table(load_space("digits"), "large"))
    write_table(folder, made_up_table(load_space("digits:resolution=16,width=2"), "wide"))
    check_refused(call(*show, "--latency=@large.json"), "large is for 32 px", "16 px")
    check_refused(call(*show, "--latency=@wide.json"), "wide", "lacks", "such as stem-")
    write_table(folder / "latency_tables", made_up_table(SPACE, "other"))
    check_refused(call(*show, "--latency=@made-up-phone"), "several", "other, slow")


def test_space_show_gives_range_and_share(call: Call) -> None:
    arguments = ("space", "show", TINY_SPACE, "--latency=15ms@slow", "--memory=70k")
    facts = json.loads(call(*arguments, "--json").out)
    cost_model = CostModel(SPACE, [SLOW])
    for cost in ("memory", "latency_ms@slow"):
        extent = cost_model.range(cost)
        assert list(facts[cost].values()) == [extent.minimum, extent.median, extent.maximum]
    assert facts["limits"] == {"memory": 70_000, "latency_ms@slow": 15.0}
    assert facts["feasible_share"] == cost_model.feasible_share(facts["limits"])
    assert 0 < facts["feasible_share"] < 1
    text = call(*arguments).out
    assert f"{cost_model.range('latency_ms@slow').maximum:.4g} ms" in text
    assert "of the space has memory <= 70kB and latency@slow <= 15 ms" in text


def test_arch_cost_has_the_latency_of_every_table_that_covers_the_space(
    call: Call, folder: Path
) -> None:
    write_table(folder / "latency_tables", made_up_table(load_space("macro"), "other-space"))
    arch = "e3k3_e3k57_e6k3_e3k3_e6k7_e3k3"
    costs = CostModel(SPACE, [FAST, SLOW]).of(SPACE.parse(arch))
    found = json.loads(call("arch", "cost", TINY_SPACE, arch, "--json").out)
    latency = {"fast": costs["latency_ms@fast"], "slow": costs["latency_ms@slow"]}
    counted = {name: costs[name] for name in ("flops", "params", "memory")}
    assert found == {**counted, "latency_ms": latency}
    lines = call("arch", "cost", TINY_SPACE, arch).out.splitlines()
    assert lines[-1].split() == ["latency@slow", f"{latency['slow']:.4g}", "ms"]
    assert lines[2].split() == ["memory", f"{counted['memory'] / 1e3:.4g}kB"]
    other = json.loads(call("arch", "cost", "macro", MACRO_ARCH, "--json").out)
    assert list(other["latency_ms"]) == ["other-space"]


def test_a_search_for_detection_counts_backbones_at_another_size(job: Job, call: Call) -> None:
    rows = evolve(call, job, "--resolution=48x80", "--flops=30M")
    cost_model = CostModel(SPACE.backbone(48, 80))
    for row in rows:
        costs = cost_model.of(SPACE.parse(row["arch"]))
        assert {cost: row[cost] for cost in cost_model.costs} == costs
    before = contents(Path("evolve"))
    assert call("evolve", "--out=evolve", "--resume").code == 0
    assert contents(Path("evolve")) == before
    again = ("evolve", "--out=evolve", "--resume", "--resolution=48")
    check_refused(call(*again), "another resolution ([48, 80], not [48, 48])")


def test_what_a_search_for_detection_refuses(job: Job, call: Call) -> None:
    search = ("evolve", f"--supernet={job.supernet}", *SMALL)
    check_refused(call(*search, "--resolution=large"), "'large' is not an image size")
    check_refused(call(*search, "--resolution=48", "--latency=@fast"), "fast", "has 48 px")
    outcome = call(*search, "--resolution=320", "--flops=1M")
    check_refused(outcome, "(backbone at 320 px)", "the space ranges from", code=3)
    assert not Path("runs").exists()
