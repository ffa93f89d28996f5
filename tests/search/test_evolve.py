import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from additive import additive, evolve

from mobilenas.base.errors import BadInput, InfeasibleBudget
from mobilenas.cost import CostModel
from mobilenas.search import Evaluation, Measured, NSGA2Search, Problem, explore
from mobilenas.search.replay import GROUP
from mobilenas.space import load_space, space_from_dict

SPACE = load_space("macro")
COSTS = CostModel(SPACE)
LIMITS = {"flops": 60_000_000}
FILES = ("evaluations.jsonl", "front.json", "history.csv", "run.json", "front.png")


class Counting:
    """An evaluator that remembers its archs and raises before there are more than `fail_at`."""

    def __init__(self, fail_at=None):
        self.archs = []
        self.fail_at = fail_at
        self.evaluate = additive(SPACE)

    def __call__(self, archs):
        if self.fail_at is not None and len(self.archs) + len(archs) > self.fail_at:
            raise KeyboardInterrupt
        self.archs += archs
        return self.evaluate(archs)


def search(run, evaluate=None, **settings):
    settings = {"limits": LIMITS, "population": 10, "generations": 8, "seed": 3} | settings
    return evolve(SPACE, evaluate or additive(SPACE), COSTS, run=Path(run), **settings)


def contents(run):
    return {name: (Path(run) / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    run = tmp_path_factory.mktemp("unbroken")
    search(run)
    return run


def test_every_arch_is_evaluated_once_and_only_within_the_limits(tmp_path):
    count = Counting()
    result = search(tmp_path, count, limits={"flops": 30_000_000, "params": 1_000_000})
    assert len(set(count.archs)) == len(count.archs) == len(result.evaluations)
    assert [e.arch for e in result.evaluations] == count.archs
    assert all(COSTS.flops(a) <= 30e6 and COSTS.params(a) <= 1e6 for a in count.archs)
    rows = [json.loads(line) for line in (tmp_path / "evaluations.jsonl").open()]
    assert rows == [e.row() for e in result.evaluations]
    costs = ["flops", "params", "memory"]
    assert list(rows[0]) == ["generation", "arch", "accuracy", *costs, "feasible"]


@pytest.mark.parametrize("objectives", [("accuracy", "flops"), ("accuracy", "params", "flops")])
def test_front_is_the_brute_force_front_of_what_was_evaluated(tmp_path, objectives):
    result = search(tmp_path, objectives=objectives)

    def beats(a, b):
        pairs = [(-a.accuracy, -b.accuracy)]
        pairs += [(a.costs[o], b.costs[o]) for o in objectives[1:]]
        return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)

    expected = {
        e.arch for e in result.evaluations if not any(beats(o, e) for o in result.evaluations)
    }
    assert {e.arch for e in result.front} == expected
    costs = [e.costs[objectives[1]] for e in result.front]
    assert costs == sorted(costs)
    stored = json.loads((tmp_path / "front.json").read_text())
    assert stored["front"] == [e.row() for e in result.front]
    assert stored["evaluations"] == len(result.evaluations)
    assert stored["settings"]["space"] == SPACE.to_dict()
    assert stored["ranges"]["flops"]["minimum"] == COSTS.range().minimum


def test_random_state_of_the_process_neither_matters_nor_changes(tmp_path, unbroken):
    np.random.seed(1)  # noqa: NPY002
    random.seed(1)
    before = np.random.get_state()[1].tobytes(), random.getstate()  # noqa: NPY002
    search(tmp_path)
    assert (np.random.get_state()[1].tobytes(), random.getstate()) == before  # noqa: NPY002
    assert contents(tmp_path) == contents(unbroken)


def test_every_group_is_synced_before_the_next_is_measured(tmp_path, synced):
    counts = []

    def evaluate(archs):
        counts.append((len(synced), len((tmp_path / "evaluations.jsonl").open().readlines())))
        sizes.append(len(archs))
        return [0.5] * len(archs)

    sizes = []
    (tmp_path / "evaluations.jsonl").touch()
    result = search(tmp_path, evaluate, population=25, generations=3)
    assert [lines for _, lines in counts] == np.cumsum([0, *sizes[:-1]]).tolist()
    assert np.diff([syncs for syncs, _ in counts]).tolist() == [1] * (len(counts) - 1)
    assert max(sizes) <= GROUP
    assert sizes[:3] == [8, 9, 8]  # the first generation, evenly
    assert sum(sizes) == len(result.evaluations)


def test_another_seed_is_another_search(tmp_path, unbroken):
    search(tmp_path, seed=4)
    assert contents(tmp_path)["evaluations.jsonl"] != contents(unbroken)["evaluations.jsonl"]


def test_nothing_is_printed_but_progress(tmp_path, capfd):
    search(tmp_path, generations=2)
    out, err = capfd.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("evolve 100%  generation 2, 20 archs, best ")


def test_importing_the_search_imports_no_figures_and_no_torch():
    program = "import sys, mobilenas.search; print({'torch', 'matplotlib'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


def test_a_search_knows_no_files():
    """By ask and tell alone it comes to what it comes to in a folder."""
    by_hand = NSGA2Search(Problem(COSTS, limits=LIMITS), population=10, generations=8, seed=3)
    evaluate, asked = additive(SPACE), []
    while (costs := by_hand.ask()) is not None:
        asked.append(list(costs))
        rows = zip(costs.items(), evaluate(list(costs)), strict=True)
        by_hand.tell([Evaluation(len(asked), arch, x, cost) for (arch, cost), x in rows])
    assert len(asked) == 8
    front = [(str(e.arch), e.accuracy) for e in by_hand.result().front]
    first = ("id_id_e3k3_id_id_id_id_id", 0.5109627578366941)
    last = ("e6k5_id_e3k3_e3k3_e3k3_e6k5_e6k5_id", 0.8794335767820632)
    assert (front[0], front[-1], len(front)) == (first, last, 15)  # as it always was


@pytest.mark.parametrize("fail_at", [0, 10, 37])
def test_a_search_that_raised_resumes_to_the_same_bytes(tmp_path, unbroken, fail_at):
    before, after = Counting(fail_at), Counting()
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, before)
    result = search(tmp_path, after, resume=True)
    assert contents(tmp_path) == contents(unbroken)
    assert before.archs + after.archs == [e.arch for e in result.evaluations]


@pytest.mark.parametrize("share", [0.0, 0.31, 0.62, 0.9999])
def test_resume_from_any_byte(tmp_path, unbroken, share):
    search(tmp_path)
    file = tmp_path / "evaluations.jsonl"
    os.truncate(file, int(share * file.stat().st_size))
    for name in ("front.json", "history.csv", "front.png"):
        (tmp_path / name).unlink()
    search(tmp_path, resume=True)
    assert contents(tmp_path) == contents(unbroken)


def test_resume_after_kill_9(tmp_path, unbroken):
    program = (
        "import sys, time; sys.path.insert(0, sys.argv[1]); import test_evolve as t\n"
        "evaluate = t.additive(t.SPACE)\n"
        "slow = lambda archs: (time.sleep(0.02 * len(archs)), evaluate(archs))[1]\n"
        "t.search(sys.argv[2], slow, resume=True)"
    )
    file = tmp_path / "evaluations.jsonl"
    for lines in (5, 23):
        process = subprocess.Popen([sys.executable, "-c", program, Path(__file__).parent, tmp_path])
        for _ in range(2000):
            time.sleep(0.01)
            if file.exists() and file.read_bytes().count(b"\n") >= lines:
                break
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not (tmp_path / "front.json").exists()
    search(tmp_path, resume=True)
    assert contents(tmp_path) == contents(unbroken)


def test_resume_of_a_finished_search_evaluates_nothing(tmp_path, unbroken):
    search(tmp_path)
    search(tmp_path, Counting(fail_at=0), resume=True)
    assert contents(tmp_path) == contents(unbroken)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", 4),
        ("population", 12),
        ("generations", 9),
        ("limits", {"flops": 50_000_000}),
        ("objectives", ("accuracy", "params")),
        ("evaluator", {"weights": 7}),
    ],
)
def test_resume_with_another_setting_is_refused(tmp_path, name, value):
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, Counting(12))
    before = (tmp_path / "evaluations.jsonl").read_bytes()
    with pytest.raises(BadInput, match=rf"another {name}[ .:]"):
        search(tmp_path, resume=True, **{name: value})
    assert (tmp_path / "evaluations.jsonl").read_bytes() == before


def test_a_supernet_may_have_moved_when_a_search_is_resumed(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, Counting(12), parents={"supernet": "here"})
    search(tmp_path, resume=True, parents={"supernet": "there"})
    stored = json.loads((tmp_path / "front.json").read_text())["settings"]
    assert stored["places"] == {"supernet": "there", "latency_tables": {}}


def test_resume_in_another_space_is_refused(tmp_path):
    search(tmp_path, generations=1)
    space = load_space("macro:width=0.5")
    with pytest.raises(BadInput, match="another space"):
        evolve(space, additive(space), CostModel(space), run=tmp_path, resume=True)


def test_a_search_from_before_a_key_of_spaces_was_added_resumes(tmp_path):
    whole = search(tmp_path)
    stored = json.loads((tmp_path / "run.json").read_text())
    del stored["settings"]["space"]["path_activation"]
    (tmp_path / "run.json").write_text(json.dumps(stored))
    assert search(tmp_path, Counting(fail_at=0), resume=True) == whole


def test_a_used_folder_is_refused_without_resume(tmp_path):
    search(tmp_path, generations=1)
    with pytest.raises(BadInput, match="--resume continues it, or choose another --out"):
        search(tmp_path, generations=1)


def test_edited_evaluations_are_refused(tmp_path):
    search(tmp_path)
    file = tmp_path / "evaluations.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([lines[1], lines[0], *lines[2:]]))
    with pytest.raises(BadInput, match="line 1 is"):
        search(tmp_path, resume=True)
    file.write_text("".join([lines[1], lines[0]]))  # seen before the rest is measured
    with pytest.raises(BadInput, match="line 1 is"):
        search(tmp_path, Counting(fail_at=0), resume=True)
    for wrong in (87.5, -0.1, float("nan"), "high"):
        row = json.dumps(json.loads(lines[0]) | {"accuracy": wrong}) + "\n"
        file.write_text("".join([row, *lines[1:]]))
        with pytest.raises(BadInput, match=r"line 1: accuracy .* is no number in 0\.\.1"):
            search(tmp_path, resume=True)
    file.write_text("".join([*lines, lines[0]]))
    with pytest.raises(BadInput, match="more lines"):
        search(tmp_path, resume=True)


def test_max_evaluations_is_exact_and_progress_is_told(tmp_path):
    search = NSGA2Search(Problem(COSTS, limits=LIMITS), population=10, max_evaluations=33)
    done = []

    def measure(archs):
        return [Measured(x) for x in additive(SPACE)(archs)]

    explore(search, tmp_path / "e.jsonl", measure, lambda _, count: done.append(count))
    assert len(search.evaluations) == 33
    assert done == sorted(done)
    assert done[-1] == 33


def test_a_search_ends_when_no_arch_is_left(tmp_path):
    space = space_from_dict(
        SPACE.to_dict() | {"stages": [{"channels": 16, "blocks": 2, "stride": 2}]}
    )
    result = evolve(
        space, additive(space), CostModel(space), run=tmp_path, population=4, generations=50
    )
    assert len(result.evaluations) == 9


def test_infeasible_budget_stops_before_anything_is_written(tmp_path):
    with pytest.raises(InfeasibleBudget, match=r"ranges from 7\.713M to 105\.7M"):
        search(tmp_path / "run", Counting(fail_at=0), limits={"flops": 1_000_000})
    assert not (tmp_path / "run").exists()


def conflicting():
    """e1k9 has fewer FLOPs than e3k3 here, and more params: each minimum is another arch."""
    stages = [{"channels": 8, "blocks": 1, "stride": 2}]
    choice = {"candidates": ["e1k9", "e3k3"], "stages": stages, "stem": {"channels": 8}}
    return space_from_dict(SPACE.to_dict() | choice)


def test_limits_that_only_conflict_together(tmp_path):
    space = conflicting()
    cost_model = CostModel(space)
    limits = {name: cost_model.range(name).minimum for name in ("flops", "params")}
    with pytest.raises(InfeasibleBudget, match="none of 2 archs of macro meets flops"):
        evolve(space, additive(space), cost_model, run=tmp_path, limits=limits, population=4)


@pytest.mark.parametrize("accuracy", [float("nan"), 87.5, -0.1])
def test_accuracies_must_be_shares(tmp_path, accuracy):
    with pytest.raises(ValueError, match="not in 0"):
        search(tmp_path, lambda archs: [accuracy] * len(archs))
    assert not (tmp_path / "evaluations.jsonl").exists()


@pytest.mark.parametrize("bad", [{"population": 1}, {"generations": 0}, {"max_evaluations": 0}])
def test_settings_without_sense_are_refused(bad):
    with pytest.raises(BadInput, match="population >= 2"):
        NSGA2Search(Problem(COSTS), **bad)


def test_a_budget_that_hardly_any_arch_meets_is_told_and_searched(tmp_path, caplog):
    space = load_space("s1")
    cost_model = CostModel(space)
    limits = {"flops": cost_model.range("flops").minimum}
    result = evolve(
        space,
        lambda archs: [0.5] * len(archs),
        cost_model,
        run=tmp_path,
        limits=limits,
        population=2,
        generations=1,
    )
    assert "0 % of the archs drawn from s1 meet flops <= 242.8M" in caplog.text
    assert {str(e.arch) for e in result.evaluations} == {"_".join(["e3k3"] * 12)}
