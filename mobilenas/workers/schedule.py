"""Which worker does which group of work, and what happens where one fails.

It knows neither processes nor clocks: both are of a `Backend`. A worker that dies or hangs is
replaced, and its group is done again; a result counts once, as a group is with one worker at a
time. Of a group that fails each item is tried again alone, so that one bad item spoils no other.
"""

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from mobilenas.base.errors import BadInput, WorkFailed

T = TypeVar("T")
TRIES = 3  # of an item, where nothing else is said; items or workers in a row that end all

log = logging.getLogger(__name__)

Kind = Literal["ready", "done", "failed", "refused", "died"]


class Event(NamedTuple):
    """What became of a worker. value: the results of a group that is done, else one line on why:
    failed (an error), refused (input that the user must correct), died (the worker is no more).
    """

    worker: int
    kind: Kind
    value: Any = None


class Backend(Protocol):
    """What workers are. They have numbers, of which none comes twice."""

    count: int  # workers at once

    def start(self, worker: int) -> None:
        """Start a worker; an event says when it is ready."""

    def send(self, worker: int, what: str, items: Sequence[str]) -> None:
        """Give a group to a worker that is ready and has none."""

    def wait(self, seconds: float | None) -> list[Event]:
        """The events that there are, or will be within so many seconds (None: whenever)."""

    def stop(self, worker: int) -> None:
        """End a worker at once; nothing is heard of it any more."""

    def now(self) -> float:
        """Seconds of a clock that only goes forward."""

    def close(self) -> None:
        """End all workers."""


class Outcome(NamedTuple):
    """Of a group, or of an item that failed. results: one an item, None where it failed for good,
    and then `why` is one line.
    """

    items: tuple[str, ...]
    results: list[Any] | None
    why: str = ""


class _Task(NamedTuple):
    what: str
    items: tuple[str, ...]
    tries: int = 0  # that failed


class _Busy(NamedTuple):
    since: float
    task: _Task | None  # None: it is starting


class Workers:
    """`workers(what, groups)`: the outcome of each group, as they end.

    what: which work, in the words of those who do it. timeout: seconds that a worker may take for a
    group, or to come up; then it is ended. tries: of an item. Raises BadInput where a worker
    refuses its input, and WorkFailed where no worker comes up or nothing at all succeeds; of that
    there is no outcome.
    """

    def __init__(self, backend: Backend, timeout: float | None = None, tries: int = TRIES) -> None:
        self._backend, self._timeout, self._tries = backend, timeout, tries
        self._wanted = backend.count
        self._started = self._starting = self._false_starts = self._left_out = 0
        self._succeeded = False
        self._held: list[Outcome] = []  # failures before any success: maybe all will fail
        self._idle: list[int] = []
        self._busy: dict[int, _Busy] = {}  # in the order of `since`
        self._waiting: deque[_Task] = deque()

    @property
    def count(self) -> int:
        """Workers at once."""
        return self._backend.count

    def __call__(self, what: str, groups: Sequence[Sequence[str]]) -> Iterator[Outcome]:
        self._waiting.extend(_Task(what, tuple(group)) for group in groups)
        while self._waiting or len(self._busy) > self._starting:
            self._employ()
            for event in self._events():
                if event.worker in self._busy:
                    yield from self._take(event, self._busy.pop(event.worker).task)
                else:  # it died while it had nothing to do
                    self._idle.remove(event.worker)
        yield from self._released()

    def _take(self, event: Event, task: _Task | None) -> Iterator[Outcome]:
        """What follows from an event of a worker that had this task, or was starting."""
        if event.kind == "refused":
            raise BadInput(event.value)
        if task is None:
            self._starting -= 1
            if event.kind == "ready":
                self._false_starts = 0
                self._idle.append(event.worker)
                return
            if event.kind == "failed":
                self._backend.stop(event.worker)
            self._not_come_up(event.value)
            return
        if event.kind != "died":
            self._idle.append(event.worker)
        if event.kind == "done":
            self._succeeded = True
            yield from self._released()
            yield Outcome(task.items, event.value)
        else:
            yield from self._again(task, event.value)

    def _employ(self) -> None:
        """Start the workers that are missing, and give those that are idle a group."""
        missing = len(self._waiting) - len(self._idle) - self._starting
        for _ in range(min(missing, self._wanted - len(self._idle) - len(self._busy))):
            self._backend.start(self._started)
            self._busy[self._started] = _Busy(self._backend.now(), None)
            self._started += 1
            self._starting += 1
        for _ in range(min(len(self._idle), len(self._waiting))):
            worker, task = self._idle.pop(), self._waiting.popleft()
            self._busy[worker] = _Busy(self._backend.now(), task)
            self._backend.send(worker, task.what, task.items)

    def _events(self) -> list[Event]:
        """What is heard of busy workers; of those that take too long, that they died."""
        if self._timeout is None:
            return self._backend.wait(None)
        oldest = next(iter(self._busy.values())).since
        events = self._backend.wait(max(0.0, oldest + self._timeout - self._backend.now()))
        heard = {event.worker for event in events}
        for worker, busy in self._busy.items():
            if busy.since + self._timeout > self._backend.now():
                break
            if worker not in heard:
                self._backend.stop(worker)
                events.append(Event(worker, "died", f"took more than {self._timeout:g} s"))
        return events

    def _again(self, task: _Task, why: str) -> Iterator[Outcome]:
        tries = task.tries + 1
        if tries < self._tries:
            log.info("%s: %s; it is done again", _named(task.items), why)
            self._waiting.extend(_Task(task.what, (item,), tries) for item in task.items)
            return
        self._left_out += 1
        if not self._succeeded and self._left_out == TRIES:
            raise WorkFailed(f"{TRIES} of {TRIES} failed {self._tries} times each, the last: {why}")
        self._held.append(Outcome(task.items, None, why))
        if self._succeeded:
            yield from self._released()

    def _released(self) -> Iterator[Outcome]:
        """The failures that are held back: something has succeeded, or there is no more work."""
        held, self._held = self._held, []
        for outcome in held:
            what, why = outcome.items[0], outcome.why
            log.warning("%s is left out, it failed %d times: %s", what, self._tries, why)
            yield outcome

    def _not_come_up(self, why: str) -> None:
        self._false_starts += 1
        if self._false_starts < TRIES:
            log.info("a worker did not come up: %s; another one is started", why)
        elif self._idle or len(self._busy) > self._starting:
            self._wanted -= 1
            log.warning("a worker less: %d in a row did not come up (%s)", self._false_starts, why)
        else:
            raise WorkFailed(f"no worker comes up: {why}")


def even_groups(items: Sequence[T], at_most: int, workers: int) -> list[list[T]]:
    """Groups of neighbours, so that those which start alike stay together: of `at_most` items and,
    for several workers, at least two groups each, so that none waits long for the last.
    """
    groups = max(-(-len(items) // at_most), min(len(items), 2 * workers if workers > 1 else 1))
    ends = [round(len(items) * i / groups) for i in range(groups + 1)] if groups else []
    return [list(items[a:b]) for a, b in pairwise(ends)]


def _named(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{len(items)} from {items[0]} on"
