"""What the scheduling does with workers that fail, on a clock of its own."""

import heapq
from collections.abc import Callable, Sequence

import pytest

from mobilenas.base.errors import BadInput, WorkFailed
from mobilenas.workers import Workers, WorkersAsked, even_groups
from mobilenas.workers.schedule import TRIES, Event, Kind

# What happens to items that a worker has: how that ends, and after how many seconds.
Fate = Callable[[int, Sequence[str]], tuple[Kind, float]]


class Stage:
    """A `Backend` in which a fate decides; starting takes a second."""

    def __init__(self, count: int, fate: Fate) -> None:
        self.count, self.fate = count, fate
        self.clock = 0.0
        self.coming: list[tuple[float, int, Event]] = []
        self.given: list[tuple[int, tuple[str, ...]]] = []
        self.stopped: list[int] = []

    def start(self, worker: int) -> None:
        kind, _ = self.fate(worker, ())
        self.expect(1, Event(worker, "ready" if kind == "done" else kind, "no memory"))

    def send(self, worker: int, what: str, items: Sequence[str]) -> None:
        self.given.append((worker, tuple(items)))
        kind, seconds = self.fate(worker, items)
        value = [f"{what} {item}" for item in items] if kind == "done" else f"it {kind}"
        self.expect(seconds, Event(worker, kind, value))

    def expect(self, seconds: float, event: Event) -> None:
        heapq.heappush(self.coming, (self.clock + seconds, event.worker, event))

    def wait(self, seconds: float | None) -> list[Event]:
        assert self.coming, "waiting for nothing"
        if seconds is not None and self.coming[0][0] > self.clock + seconds:
            self.clock += seconds
            return []
        self.clock, _, event = heapq.heappop(self.coming)
        return [event]

    def stop(self, worker: int) -> None:
        self.stopped.append(worker)
        self.coming = [x for x in self.coming if x[1] != worker]
        heapq.heapify(self.coming)

    def now(self) -> float:
        return self.clock

    def close(self) -> None:
        pass


def done(worker: int, items: Sequence[str]) -> tuple[Kind, float]:
    return "done", 1


GROUPS = [["a", "b"], ["c", "d"], ["e"]]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_every_item_comes_once(count: int) -> None:
    stage = Stage(count, done)
    outcomes = list(Workers(stage)("measure", GROUPS))
    found = {a: r for x in outcomes for a, r in zip(x.items, x.results or [], strict=True)}
    assert found == {item: f"measure {item}" for item in "abcde"}
    assert sum(len(outcome.items) for outcome in outcomes) == 5
    assert {worker for worker, _ in stage.given} <= set(range(count))


def test_no_more_workers_start_than_there_is_work_and_they_stay() -> None:
    stage = Stage(100, done)
    workers = Workers(stage)
    assert len(list(workers("measure", GROUPS))) == 3
    assert len(list(workers("measure", GROUPS))) == 3
    assert {worker for worker, _ in stage.given} == {0, 1, 2}
    assert list(workers("measure", [])) == []


def test_the_work_of_a_dead_worker_is_done_again_by_others() -> None:
    def fate(worker: int, items: Sequence[str]) -> tuple[Kind, float]:
        return ("died", 1) if worker == 0 and items else ("done", 1)

    stage = Stage(2, fate)
    outcomes = list(Workers(stage)("measure", GROUPS))
    assert sorted(item for x in outcomes for item in x.items) == list("abcde")
    assert all(outcome.results for outcome in outcomes)
    lost = stage.given[[worker for worker, _ in stage.given].index(0)][1]
    again = [items for worker, items in stage.given if worker and set(items) <= set(lost)]
    assert again == [(item,) for item in lost]


def test_a_bad_item_is_left_out_and_its_neighbours_are_not() -> None:
    def fate(worker: int, items: Sequence[str]) -> tuple[Kind, float]:
        return ("failed" if "c" in items else "done"), 1

    stage = Stage(2, fate)
    outcomes = list(Workers(stage)("measure", GROUPS))
    failed = [outcome for outcome in outcomes if outcome.results is None]
    assert [(outcome.items, outcome.why) for outcome in failed] == [(("c",), "it failed")]
    assert sorted(x for o in outcomes if o.results for x in o.items) == ["a", "b", "d", "e"]
    assert sum("c" in items for _, items in stage.given) == TRIES


def test_a_worker_that_hangs_is_ended_and_replaced() -> None:
    def fate(worker: int, items: Sequence[str]) -> tuple[Kind, float]:
        return "done", 1000 if worker == 0 and items else 1

    stage = Stage(2, fate)
    outcomes = list(Workers(stage, timeout=5)("measure", GROUPS))
    assert sorted(item for x in outcomes for item in x.items) == list("abcde")
    assert stage.stopped == [0]
    assert stage.clock < 10


def test_where_nothing_works_that_is_said_soon() -> None:
    def fails(worker: int, items: Sequence[str]) -> tuple[Kind, float]:
        return ("failed" if items else "done"), 1

    stage, seen = Stage(2, fails), []
    with pytest.raises(WorkFailed, match="3 of 3 failed 3 times each, the last: it failed"):
        seen += Workers(stage)("measure", [[f"{i}"] for i in range(1000)])
    assert len(stage.given) < 3005
    assert seen == []


def test_an_item_is_tried_as_often_as_is_asked_for() -> None:
    def fate(worker: int, items: Sequence[str]) -> tuple[Kind, float]:
        return ("failed" if "a" in items else "done"), 1

    stage = Stage(1, fate)
    outcomes = list(Workers(stage, tries=2)("measure", [["a"], ["b"]]))
    assert sum("a" in items for _, items in stage.given) == 2
    assert [outcome.items for outcome in outcomes if outcome.results is None] == [("a",)]


@pytest.mark.parametrize("works", [[], ["c"]])
def test_failures_before_any_success_are_told_with_it_or_at_the_end(works: list[str]) -> None:
    def fate(worker: int, items: Sequence[str]) -> tuple[Kind, float]:
        return ("failed" if items and list(items) != works else "done"), 1

    outcomes = list(Workers(Stage(1, fate))("measure", [["a"], ["b"], *([works] if works else [])]))
    failed = [outcome.items for outcome in outcomes if outcome.results is None]
    assert sorted(failed) == [("a",), ("b",)]
    assert len(outcomes) == 2 + len(works)


@pytest.mark.parametrize("kind", ["failed", "died"])
def test_workers_that_do_not_come_up_are_given_up(kind: Kind) -> None:
    stage = Stage(2, lambda worker, items: (kind, 1))
    with pytest.raises(WorkFailed, match="no worker comes up: no memory"):
        list(Workers(stage)("measure", GROUPS))
    assert stage.given == []


def test_what_the_user_must_correct_ends_all() -> None:
    with pytest.raises(BadInput, match="no memory"):
        list(Workers(Stage(2, lambda worker, items: ("refused", 1)))("measure", GROUPS))


@pytest.mark.parametrize(
    ("items", "at_most", "workers", "sizes"),
    [
        (0, 10, 1, []),
        (10, 10, 1, [10]),
        (25, 10, 1, [8, 9, 8]),
        (20, 10, 4, [2, 3] * 4),
        (3, 10, 4, [1, 1, 1]),
        (300, 10, 4, [10] * 30),
    ],
)
def test_groups_are_even(items: int, at_most: int, workers: int, sizes: list[int]) -> None:
    names = [f"{i}" for i in range(items)]
    groups = even_groups(names, at_most, workers)
    assert [name for group in groups for name in group] == names
    assert sorted(map(len, groups)) == sorted(sizes)


def test_workers_as_users_write_them() -> None:
    assert WorkersAsked.parse("4") == WorkersAsked(4)
    WorkersAsked.parse("4").check()
    assert WorkersAsked.parse("ray", 60) == WorkersAsked(None, None, 60)
    address = "ray://10.0.0.1:10001"
    assert WorkersAsked.parse(address) == WorkersAsked(None, address)
    for bad in (
        "0",
        "513",
        "-1",
        "two",
        "",
        "Ray",
        "ray:",
        "ray://",
        "ray://host",
        "ray://h:0",
        "ray://h:" + 5000 * "1",
    ):
        with pytest.raises(BadInput, match="--workers"):
            WorkersAsked.parse(bad)


def test_threads_are_those_of_the_variable_or_a_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert WorkersAsked(8).threads_each(3) == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    shares = [WorkersAsked(n).threads_each(8) for n in (1, 2, 16, None)]
    assert shares == [8, 4, 1, 1]
