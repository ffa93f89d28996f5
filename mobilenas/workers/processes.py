"""Workers that are processes on this machine."""

import multiprocessing
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from mobilenas.base.process import end_with_parent, tune_process
from mobilenas.workers.here import Work, attempt
from mobilenas.workers.schedule import Event


class Processes:
    """A `Backend` of `count` processes. make: called in each, once; what it gives does the work.

    They are spawned, not forked: a fork of a process with threads may hang. They end with this one.
    """

    def __init__(self, make: Callable[[], Work], count: int) -> None:
        self.count = count
        self._make = make
        self._spawn = multiprocessing.get_context("spawn")
        self._workers: dict[int, tuple[SpawnProcess, Connection]] = {}

    def start(self, worker: int) -> None:
        ours, theirs = self._spawn.Pipe()
        process = self._spawn.Process(target=_serve, args=(theirs, self._make))
        process.start()
        theirs.close()  # so that its end is heard
        self._workers[worker] = process, ours

    def send(self, worker: int, what: str, items: Sequence[str]) -> None:
        with suppress(OSError):  # it has died, which `wait` hears too
            self._workers[worker][1].send((what, items))

    def wait(self, seconds: float | None) -> list[Event]:
        heard = set(wait([pipe for _, pipe in self._workers.values()], seconds))
        events = []
        for worker, (_, pipe) in list(self._workers.items()):
            if pipe not in heard:
                continue
            try:
                events.append(Event(worker, *pipe.recv()))
            except (EOFError, OSError):
                events.append(Event(worker, "died", self._end(worker)))
        return events

    def stop(self, worker: int) -> None:
        process, pipe = self._workers.pop(worker)
        process.kill()
        process.join()
        pipe.close()

    def now(self) -> float:
        return time.monotonic()

    def close(self) -> None:
        for worker in list(self._workers):
            self.stop(worker)

    def _end(self, worker: int) -> str:
        """How a process ended, which is taken off the list."""
        process, pipe = self._workers.pop(worker)
        process.join()
        pipe.close()
        code = process.exitcode or 0
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return f"the worker {how}"


def _serve(pipe: Connection, make: Callable[[], Work]) -> None:
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for the command, which ends us
    tune_process()
    kind, work = attempt(make)
    pipe.send(("ready", None) if kind == "done" else (kind, work))
    while kind == "done":
        try:
            what, items = pipe.recv()
        except EOFError:
            return
        pipe.send(attempt(work, what, items))
