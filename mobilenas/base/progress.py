"""Progress of long work on stderr: a live bar on a terminal, a line now and then in a log."""

import math
import sys
import threading
import time
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

_LINE_SECONDS = 30


class ProgressBar:
    """`with ProgressBar("training", total) as bar: bar.advance(n, "loss 2.3")`.

    deadline: time.monotonic() at which the work stops, done or not.
    """

    def __init__(self, title: str, total: int, done: int = 0, deadline: float = math.inf) -> None:
        self._title = title
        self._total = total
        self._done = self.first = done
        self._deadline = deadline
        self._start = self._last_line = time.monotonic()
        self._bar: Progress | None = None
        # Work in other threads goes side by side, and live bars would overwrite each other.
        if sys.stderr.isatty() and threading.current_thread() is threading.main_thread():
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:3.0f}% {task.fields[note]}"),
                TimeElapsedColumn(),
                TextColumn("ETA {task.fields[left]}"),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(title, total=total, completed=done, note="", left="")

    def __enter__(self) -> "ProgressBar":
        return self  # the bar starts with the first progress: what is logged before stays above it

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the bar off the terminal; the end of a `with` does so too."""
        if self._bar:
            self._bar.stop()

    def advance(self, amount: int, note: str = "") -> None:
        """Count `amount` more as done; `note` is shown beside the bar."""
        self._done += amount
        now = time.monotonic()
        elapsed = now - self._start
        left = elapsed / max(1, self._done - self.first) * (self._total - self._done)
        left = max(0, min(left, self._deadline - now))
        if self._bar:
            self._bar.start()
            minutes = str(timedelta(seconds=round(left)))
            self._bar.update(self._task, completed=self._done, note=note, left=minutes)
            return
        if now - self._last_line < _LINE_SECONDS and self._done < self._total:
            return
        self._last_line = now
        share = 100 * self._done / self._total
        print(
            f"{self._title} {share:3.0f}%  {note}  {elapsed:.0f} s, ETA {left:.0f} s",
            file=sys.stderr,
            flush=True,
        )
