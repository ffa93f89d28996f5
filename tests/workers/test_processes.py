"""Workers that are processes: killed, hanging, failing."""

from functools import partial
from pathlib import Path

import pytest
from helpers import processes_of
from odd_work import breaks, opened, refuses

from mobilenas.base.errors import BadInput, WorkFailed
from mobilenas.workers import Outcome, WorkersAsked, open_workers

GROUPS = [["a", "bb"], ["kill", "ccc"], ["bad-1", "dddd"], ["e"]]


def check(outcomes: list[Outcome]) -> None:
    """All of GROUPS have come once, and the bad item is left out."""
    failed = [outcome for outcome in outcomes if outcome.results is None]
    assert [outcome.items for outcome in failed] == [("bad-1",)]
    assert failed[0].why.startswith("ValueError: bad-1 is bad (odd_work.py:")
    found = [pair for x in outcomes if x.results for pair in zip(x.items, x.results, strict=True)]
    names = [item for group in GROUPS for item in group if item != "bad-1"]
    assert sorted(found) == sorted((name, len(name)) for name in names)


def tries(folder: Path, item: str) -> list[str]:
    """The processes that have tried an item."""
    return (folder / item).read_text().splitlines()


def test_a_killed_worker_and_a_bad_item_cost_nothing_else(tmp_path: Path) -> None:
    with open_workers(WorkersAsked(2), partial(opened, str(tmp_path)), 1) as workers:
        check(list(workers("measure", GROUPS)))
        assert len(set(tries(tmp_path, "kill"))) == 2
        assert len(tries(tmp_path, "bad-1")) == 3
        assert [outcome.results for outcome in workers("measure", [["later"]])] == [[5]]
    assert processes_of(tmp_path) == []


def test_a_worker_that_hangs_is_ended(tmp_path: Path) -> None:
    asked = WorkersAsked(1, timeout=6)
    with open_workers(asked, partial(opened, str(tmp_path)), 1) as workers:
        found = {o.items: o.results for o in workers("measure", [["a"], ["hang"]])}
    assert found == {("a",): [1], ("hang",): [4]}
    assert len(set(tries(tmp_path, "hang"))) == 2


def test_workers_that_cannot_start_say_why() -> None:
    with (
        open_workers(WorkersAsked(2), refuses, 1) as workers,
        pytest.raises(BadInput, match=r"^no such supernet$"),
    ):
        list(workers("measure", GROUPS))
    with (
        open_workers(WorkersAsked(2), breaks, 1) as workers,
        pytest.raises(WorkFailed, match=r"no worker comes up: RuntimeError: out of memory"),
    ):
        list(workers("measure", GROUPS))
