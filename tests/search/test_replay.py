"""Evaluations on disk: there as soon as they are measured, and all that a resume needs."""

import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from additive import Counting

from mobilenas.base.errors import BadInput, InfeasibleBudget, WorkFailed
from mobilenas.cost import CostModel
from mobilenas.search import Measured, NSGA2Search, Problem, explore
from mobilenas.search.replay import GROUP, Measure
from mobilenas.space import Arch, load_space, space_from_dict

SPACE = load_space("macro")
COSTS = CostModel(SPACE)
LIMITS = {"flops": 60_000_000}


def search(
    path: Path, measure: Measure | None = None, *, by_score: bool = False, generations: int = 8
) -> NSGA2Search:
    """A search of generations that take two groups each."""
    objectives = ("score" if by_score else "accuracy", "flops")
    problem = Problem(COSTS, objectives, LIMITS)
    found = NSGA2Search(problem, population=GROUP + 4, generations=generations, seed=3)
    explore(found, path, measure or Counting(SPACE, by_score=by_score))
    return found


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("unbroken") / "evaluations.jsonl"
    search(path)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "evaluations.jsonl"


def test_the_lines_are_the_evaluations(unbroken: Path) -> None:
    rows = [json.loads(line) for line in unbroken.open()]
    assert rows == [e.row() for e in search(unbroken, Counting(SPACE, fail_at=0)).evaluations]
    costs = ["flops", "params", "memory"]
    assert list(rows[0]) == ["generation", "arch", "accuracy", *costs, "feasible"]


def test_every_group_is_on_disk_before_the_next_is_measured(path: Path, synced: list[int]) -> None:
    seen, groups = [], []
    path.touch()

    def measure(archs: list[Arch]) -> list[Measured]:
        seen.append((len(synced), len(path.open().readlines())))
        groups.append(len(archs))
        return [Measured(0.5)] * len(archs)

    evaluations = search(path, measure, generations=3).evaluations
    assert [lines for _, lines in seen] == np.cumsum([0, *groups[:-1]]).tolist()
    assert np.diff([syncs for syncs, _ in seen]).tolist() == [1] * (len(seen) - 1)
    assert max(groups) <= GROUP
    sizes = [sum(e.generation == number for e in evaluations) for number in (1, 2, 3)]
    assert len(groups) > len(sizes)
    assert len(groups) == sum(math.ceil(size / GROUP) for size in sizes)


@pytest.mark.parametrize("by_score", [False, True])
@pytest.mark.parametrize("fail_at", [0, 8, 23, 40])
def test_a_search_that_raised_keeps_the_groups_before_and_resumes_to_the_same_bytes(
    tmp_path: Path, fail_at: int, by_score: bool
) -> None:
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    result = search(whole, by_score=by_score).result()
    before, after = (Counting(SPACE, count, by_score) for count in (fail_at, None))
    with pytest.raises(KeyboardInterrupt):
        search(broken, before, by_score=by_score)
    lines = broken.read_bytes().splitlines() if broken.exists() else []
    assert [json.loads(line)["arch"] for line in lines] == [str(arch) for arch in before.archs]
    assert search(broken, after, by_score=by_score).result() == result
    assert broken.read_bytes() == whole.read_bytes()
    assert before.archs + after.archs == [e.arch for e in result.evaluations]


def test_a_kill_in_the_middle_of_a_generation_loses_no_group(path: Path) -> None:
    measure = Counting(SPACE, GROUP)  # the first population is two groups
    with pytest.raises(KeyboardInterrupt):
        search(path, measure)
    rows = [json.loads(line) for line in path.open()]
    assert 0 < len(rows) <= GROUP
    assert {row["generation"] for row in rows} == {1}


@pytest.mark.parametrize("share", [0.0, 0.31, 0.62, 0.9999])
def test_resume_from_any_byte(path: Path, unbroken: Path, share: float) -> None:
    content = unbroken.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    search(path)
    assert path.read_bytes() == content


def test_resume_after_kill_9(path: Path, unbroken: Path) -> None:
    program = (
        "import sys, time; sys.path[:0] = sys.argv[1:3]; import test_replay as t\n"
        "measure = t.Counting(t.SPACE)\n"
        "slow = lambda archs: (time.sleep(0.02 * len(archs)), measure(archs))[1]\n"
        "t.search(t.Path(sys.argv[3]), slow)"
    )
    here = Path(__file__).parent
    for lines in (5, 23):
        process = subprocess.Popen([sys.executable, "-c", program, here, here.parent, path])
        for _ in range(2000):
            time.sleep(0.01)
            if path.exists() and path.read_bytes().count(b"\n") >= lines:
                break
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert path.read_bytes().count(b"\n") >= lines
        assert unbroken.read_bytes().startswith(path.read_bytes())
    search(path)
    assert path.read_bytes() == unbroken.read_bytes()


def test_edited_evaluations_are_refused(path: Path, unbroken: Path) -> None:
    lines = unbroken.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[1], lines[0], *lines[2:]]))
    with pytest.raises(BadInput, match="line 1 is"):
        search(path)
    path.write_text("".join([lines[1], lines[0]]))  # seen before the rest is measured
    with pytest.raises(BadInput, match="line 1 is"):
        search(path, Counting(SPACE, fail_at=0))
    for wrong in (87.5, -0.1, float("nan"), "high"):
        row = json.dumps(json.loads(lines[0]) | {"accuracy": wrong}) + "\n"
        path.write_text("".join([row, *lines[1:]]))
        with pytest.raises(BadInput, match=r"line 1: accuracy .* is (no number|not in 0\.\.1)"):
            search(path)
    path.write_text("".join([*lines, lines[0]]))
    with pytest.raises(BadInput, match="more lines"):
        search(path)


def test_a_search_by_score_needs_the_naswot_of_each_line(path: Path) -> None:
    search(path, by_score=True)
    first, *rest = path.read_text().splitlines(keepends=True)
    row = json.loads(first)
    del row["naswot"]
    for edited in (row, row | {"naswot": math.inf}, row | {"naswot": True}):
        path.write_text("".join([json.dumps(edited) + "\n", *rest]))
        with pytest.raises(BadInput, match=r"line 1: naswot .* is no number"):
            search(path, by_score=True)


def test_a_search_by_accuracy_knows_no_naswot(path: Path, unbroken: Path) -> None:
    first, *rest = unbroken.read_text().splitlines(keepends=True)
    row = {"generation": 1, "naswot": 1.0} | json.loads(first)
    path.write_text("".join([json.dumps(row) + "\n", *rest]))
    with pytest.raises(BadInput, match="line 1 is"):
        search(path)


def test_progress_counts_what_is_replayed_and_what_is_measured(path: Path, unbroken: Path) -> None:
    content = unbroken.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(content[:20]))
    problem = Problem(COSTS, ("accuracy", "flops"), LIMITS)
    found = NSGA2Search(problem, population=GROUP + 4, generations=8, seed=3)
    steps: list[tuple[int, int]] = []

    def note(search: NSGA2Search) -> None:
        steps.append((search.generation, len(search.evaluations)))

    explore(found, path, Counting(SPACE), note)
    assert steps == sorted(steps)
    assert steps[:2] == [(1, 14), (2, 20)]
    assert steps[-1] == (8, len(content))


@pytest.mark.parametrize("accuracy", [float("nan"), 87.5, -0.1])
def test_what_is_no_share_is_not_written(path: Path, accuracy: float) -> None:
    with pytest.raises(ValueError, match="not in 0"):
        search(path, lambda archs: [Measured(accuracy)] * len(archs))
    assert not path.exists()


def test_a_measure_must_say_something_of_each_arch(path: Path) -> None:
    with pytest.raises(ValueError, match="shorter"):
        search(path, lambda archs: [Measured(0.5)] * (len(archs) - 1))


def test_limits_that_only_conflict_together(path: Path) -> None:
    # e1k9 has fewer FLOPs than e3k3 here, and more params: each minimum is another arch.
    stages = [{"channels": 8, "blocks": 1, "stride": 2}]
    choice = {"candidates": ["e1k9", "e3k3"], "stages": stages, "stem": {"channels": 8}}
    space = space_from_dict(SPACE.to_dict() | choice)
    costs = CostModel(space)
    limits = {name: costs.range(name).minimum for name in ("flops", "params")}
    found = NSGA2Search(Problem(costs, limits=limits), population=4)
    with pytest.raises(InfeasibleBudget, match="none of 2 archs of macro meets flops"):
        explore(found, path, Counting(space))
    assert found.evaluations == []
    assert not path.exists()


@pytest.mark.parametrize("generations", [1, 4])
def test_where_no_arch_can_be_measured_the_budget_is_not_to_blame(
    generations: int, path: Path
) -> None:
    with pytest.raises(WorkFailed, match=r"none of the first 14 archs .* could be measured"):
        search(path, lambda archs: [None] * len(archs), generations=generations)
