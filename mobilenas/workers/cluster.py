"""Workers that are actors of a Ray cluster, one with as many cores as a worker has threads.

Groups and results travel as short texts and numbers; images and weights do not: each worker reads
them by their paths, which must be the same on all machines.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from mobilenas import __version__
from mobilenas.base.errors import BadInput, WorkFailed, one_line
from mobilenas.workers.here import Work, attempt
from mobilenas.workers.schedule import Event, Kind


class _Actor:
    """What an actor is; Ray makes it one."""

    def version(self) -> str:
        return __version__

    def start(self, version: str, make: Callable[[], Work]) -> tuple[Kind, Any]:
        if version != __version__:
            return "refused", _differ(f"mobilenas {__version__}", version)
        kind, self._work = attempt(make)
        return ("ready", None) if kind == "done" else (kind, self._work)

    def work(self, what: str, items: Sequence[str]) -> tuple[Kind, Any]:
        return attempt(self._work, what, items)


class RayActors:
    """A `Backend` on a Ray cluster that `ray` is connected to.

    As many actors as the machines of the cluster have cores for now, `threads` each. Raises
    BadInput where none has so many, or they have another version of mobilenas.
    """

    def __init__(self, ray: Any, make: Callable[[], Work], threads: int) -> None:
        self._ray = ray
        self.count = _count(ray.nodes(), threads)
        self._actor = ray.remote(_Actor).options(num_cpus=threads, max_restarts=0)
        self._check_version()
        self._make = ray.put(make)
        self._actors: dict[int, Any] = {}
        self._open: dict[Any, int] = {}  # what is awaited, and of which worker

    def start(self, worker: int) -> None:
        actor = self._actors[worker] = self._actor.remote()
        self._open[actor.start.remote(__version__, self._make)] = worker

    def send(self, worker: int, what: str, items: Sequence[str]) -> None:
        self._open[self._actors[worker].work.remote(what, items)] = worker

    def wait(self, seconds: float | None) -> list[Event]:
        open_ = list(self._open)
        try:
            ready, _ = self._ray.wait(open_, num_returns=1, timeout=seconds)
            if ready:  # and what else there is by now
                ready, _ = self._ray.wait(open_, num_returns=len(open_), timeout=0)
        except ConnectionError as error:
            raise WorkFailed(f"the Ray cluster is lost: {one_line(error)[:200]}") from None
        events = []
        for reference in ready:
            worker = self._open.pop(reference)
            try:
                events.append(Event(worker, *self._ray.get(reference)))
            except self._ray.exceptions.RayError as error:
                self.stop(worker)
                events.append(Event(worker, "died", f"the worker has died ({_first(error)})"))
        return events

    def stop(self, worker: int) -> None:
        with suppress(Exception):  # it is dead already
            self._ray.kill(self._actors[worker])
        del self._actors[worker]
        self._open = {reference: w for reference, w in self._open.items() if w != worker}

    def now(self) -> float:
        return time.monotonic()

    def close(self) -> None:
        for worker in list(self._actors):
            self.stop(worker)

    def _check_version(self) -> None:
        """Raises BadInput unless a machine of the cluster has this version of mobilenas."""
        actor = self._ray.remote(_Actor).options(num_cpus=0).remote()  # however busy all are
        try:
            there = f"mobilenas {self._ray.get(actor.version.remote())}"
        except self._ray.exceptions.RayError as error:
            there = f"none that can be used ({_first(error)})"
        self._ray.kill(actor)
        if there != f"mobilenas {__version__}":
            raise BadInput(_differ(there, __version__))


def _count(nodes: list[dict[str, Any]], threads: int) -> int:
    """How many actors fit, each on one machine. Raises BadInput for none: Ray would wait."""
    cores = [int(node["Resources"].get("CPU", 0)) for node in nodes if node["Alive"]]
    count = sum(of_node // threads for of_node in cores)
    if not count:
        raise BadInput(
            f"a worker with {threads} threads takes as many cores of one machine; the largest of "
            f"the Ray cluster has {max(cores, default=0)}: set OMP_NUM_THREADS to that at most"
        )
    return count


def _first(error: BaseException) -> str:
    """The first line of an error of Ray, which has many."""
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def _differ(there: str, here: str) -> str:
    return f"the Ray cluster has {there}, this machine mobilenas {here}: install the same on all"
