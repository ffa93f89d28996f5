"""One worker, which is this process; and how any worker does its work."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from traceback import extract_tb
from typing import Any

from mobilenas.base.errors import BadInput, one_line
from mobilenas.workers.schedule import Event, Kind

# `work(what, items)`: one result of plain data an item.
Work = Callable[[str, Sequence[str]], list[Any]]


def attempt(act: Callable[..., Any], *arguments: Any) -> tuple[Kind, Any]:
    """Call a function: done and its result, or the kind of its failure and one line on it."""
    try:
        return "done", act(*arguments)
    except BadInput as error:
        return "refused", str(error)
    except Exception as error:  # whatever it is, the other groups are not to suffer from it
        place = extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        return "failed", f"{type(error).__name__}: {one_line(error)} ({where})"


class Here:
    """A `Backend` without any other process; nothing can end it while it works."""

    count = 1

    def __init__(self, work: Work) -> None:
        self._work = work
        self._events: list[Event] = []

    def start(self, worker: int) -> None:
        self._events.append(Event(worker, "ready"))

    def send(self, worker: int, what: str, items: Sequence[str]) -> None:
        self._events.append(Event(worker, *attempt(self._work, what, items)))

    def wait(self, seconds: float | None) -> list[Event]:
        events, self._events = self._events, []
        return events

    def stop(self, worker: int) -> None:
        raise AssertionError("without a timeout nothing ends a worker")

    def now(self) -> float:
        return time.monotonic()

    def close(self) -> None:
        pass
