"""Work for workers of tests: an item says what happens to it. Without torch, so quick to start."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from mobilenas.base.errors import BadInput


def opened(folder: str) -> "Callable[[str, Sequence[str]], list[int]]":
    """Make the work of a worker, which notes what it does in a folder."""
    return partial(work, Path(folder))


def refuses() -> None:
    raise BadInput("no such supernet")


def breaks() -> None:
    raise RuntimeError("out of memory")


def work(folder: Path, what: str, items: Sequence[str]) -> list[int]:
    """The length of each item. The first time that it is seen, `kill` kills the worker and `hang`
    hangs it; `bad` raises every time, `slow` takes a while.
    """
    for item in items:
        with (folder / item).open("a") as file:
            file.write(f"{os.getpid()}\n")
        first = len((folder / item).read_text().splitlines()) == 1
        if item.startswith("bad"):
            raise ValueError(f"{item} is bad")
        if item.startswith("kill") and first:
            os.kill(os.getpid(), signal.SIGKILL)
        if item.startswith("hang") and first:
            time.sleep(600)
        if item.startswith("slow"):
            time.sleep(0.3)
    return [len(item) for item in items]
