"""Searches by score: accuracy and NASWOT together."""

import json
import math

import numpy as np
import pytest
from additive import additive
from test_evolve import SPACE, Counting, contents, search

from mobilenas.base.errors import BadInput
from mobilenas.stages import evolve as stage


def naswot(archs):
    """A stand-in in which other blocks matter than for the accuracy, and kernels of 3 cost."""
    small = [sum(block.kernels == ((3,),) for block in arch.blocks) for arch in archs]
    others = additive(SPACE, seed=1)(archs)
    return [700 + 30 * x - 20 * n for x, n in zip(others, small, strict=True)]


def by_score(run, evaluate=None, **settings):
    settings = {"objectives": ("score", "flops"), "naswot": naswot} | settings
    return search(run, evaluate, **settings)


def test_a_search_by_score_goes_by_both_measures_in_units_of_its_first_population(tmp_path):
    result = by_score(tmp_path)
    measured = np.array([(e.accuracy, e.naswot) for e in result.evaluations])
    assert measured[:, 1].tolist() == naswot([e.arch for e in result.evaluations])
    first = measured[[e.generation == 1 for e in result.evaluations]]

    def score(measured):
        return ((measured - first.mean(axis=0)) / first.std(axis=0)).sum(axis=1)

    scores = score(measured)
    np.testing.assert_allclose([e.score for e in result.evaluations], scores)
    costs = [e.costs["flops"] for e in result.evaluations]
    points = list(zip(-scores, costs, strict=True))
    expected = {
        str(e.arch)
        for e, p in zip(result.evaluations, points, strict=True)
        if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)
    }
    stored = json.loads((tmp_path / "front.json").read_text())["front"]
    assert {row["arch"] for row in stored} == expected
    assert stored == [e.row() for e in result.front]
    assert {"score", "accuracy", "naswot"} < stored[0].keys()
    costs = [(row["flops"], -row["score"], row["arch"]) for row in stored]
    assert costs == sorted(costs)
    # A search by accuracy, which begins with the same archs, ends with lower scores.
    other = search(tmp_path / "other").evaluations
    assert [e.arch for e in other[:10]] == [e.arch for e in result.evaluations[:10]]
    naswots = naswot([e.arch for e in other])
    found = np.column_stack([[e.accuracy for e in other], naswots])
    assert max(scores) > max(score(found))


def test_a_search_by_score_is_drawn_by_it(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(stage, "plot_front", lambda *given: drawn.append(given))
    result = by_score(tmp_path, generations=2)
    ((_, rows, front, *_, cost, quality),) = drawn
    assert (cost, quality) == ("flops", "score")
    assert rows == [e.row() for e in result.evaluations]
    assert front == [e.row() for e in result.front]


def test_a_search_by_score_resumes_to_the_same_bytes(tmp_path):
    by_score(tmp_path / "unbroken")
    with pytest.raises(KeyboardInterrupt):
        by_score(tmp_path / "broken", Counting(37))
    by_score(tmp_path / "broken", resume=True)
    assert contents(tmp_path / "broken") == contents(tmp_path / "unbroken")
    file = tmp_path / "broken" / "evaluations.jsonl"
    first, *rest = file.read_text().splitlines(keepends=True)
    row = json.loads(first)
    del row["naswot"]
    for edited in (row, row | {"naswot": math.inf}, row | {"naswot": True}):
        file.write_text("".join([json.dumps(edited) + "\n", *rest]))
        with pytest.raises(BadInput, match=r"line 1: naswot .* is no number"):
            by_score(tmp_path / "broken", resume=True)


def test_a_search_by_accuracy_knows_no_naswot(tmp_path):
    search(tmp_path)
    file = tmp_path / "evaluations.jsonl"
    first, *rest = file.read_text().splitlines(keepends=True)
    row = {"generation": 1, "naswot": 1.0} | json.loads(first)
    file.write_text("".join([json.dumps(row) + "\n", *rest]))
    with pytest.raises(BadInput, match="line 1 is"):
        search(tmp_path, resume=True)


@pytest.mark.parametrize("wrong", [{"naswot": None}, {"objectives": ("accuracy", "flops")}])
def test_naswot_and_score_go_together(tmp_path, wrong):
    with pytest.raises(ValueError, match="a search by score, and no other, needs naswot"):
        by_score(tmp_path, **wrong)
