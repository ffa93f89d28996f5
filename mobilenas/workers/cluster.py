"""Workers that are actors of a Ray cluster, one with as many cores as a worker has threads.

A cluster that is started here listens on the loopback interface alone, without Ray's dashboard and
its usage statistics. Groups and results travel as short texts and numbers; images and weights do
not: each worker reads them by their paths, which must be the same on all machines.
"""

import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from mobilenas import __version__
from mobilenas.base.errors import BadInput, one_line
from mobilenas.workers.here import Work, attempt
from mobilenas.workers.schedule import Event, Kind

_STORE_BYTES = 80 * 2**20  # the least that Ray takes: hardly anything goes through its store


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
    """A `Backend` on a Ray cluster: on that at `address`, ray://HOST:PORT, or on one of its own.

    As many actors as the cluster has cores for, `threads` each, when it is connected to. Raises
    BadInput where Ray does not answer, or its machines have another version of mobilenas.
    """

    def __init__(self, make: Callable[[], Work], threads: int, address: str | None) -> None:
        self._ray = connect(address)
        try:
            self.count = max(1, int(self._ray.cluster_resources().get("CPU", 1)) // threads)
            actor = self._ray.remote(_Actor)
            self._actor = actor.options(num_cpus=threads, max_restarts=0)
            self._check_version()
            self._make = self._ray.put(make)
        except BaseException:
            self.close()
            raise
        self._actors: dict[int, Any] = {}
        self._open: dict[Any, int] = {}  # what is awaited, and of which worker

    def start(self, worker: int) -> None:
        actor = self._actors[worker] = self._actor.remote()
        self._open[actor.start.remote(__version__, self._make)] = worker

    def send(self, worker: int, what: str, items: Sequence[str]) -> None:
        self._open[self._actors[worker].work.remote(what, items)] = worker

    def wait(self, seconds: float | None) -> list[Event]:
        open_ = list(self._open)
        ready, _ = self._ray.wait(open_, num_returns=1, timeout=seconds)
        if ready:  # and what else there is by now
            ready, _ = self._ray.wait(open_, num_returns=len(open_), timeout=0)
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
        self._ray.shutdown()

    def _check_version(self) -> None:
        """Raises BadInput unless a machine of the cluster has this version of mobilenas."""
        actor = self._actor.remote()
        try:
            there = f"mobilenas {self._ray.get(actor.version.remote())}"
        except self._ray.exceptions.RayError as error:
            there = f"none that can be used ({_first(error)})"
        self._ray.kill(actor)
        if there != f"mobilenas {__version__}":
            raise BadInput(_differ(there, __version__))


def connect(address: str | None) -> Any:
    """The module ray, connected to a cluster: the one at ray://HOST:PORT, or a new one on this
    machine. Raises BadInput where Ray does not start or does not answer.
    """
    # Ray reads these when it is imported and when it starts its processes.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if address is None:
        # Ray's own switch for "no other machines": it then listens on 127.0.0.1 alone.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address is None:
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=_STORE_BYTES,
                **quiet,
            )
        else:
            ray.init(address, **quiet)
    except Exception as error:  # many kinds, of Ray and of gRPC
        where = address or "a local Ray cluster"
        raise BadInput(
            f"--workers: cannot use {where}: {one_line(error)[:200]} (where a cluster asks for a "
            "token, RAY_AUTH_MODE=token shows yours)"
        ) from None
    return ray


def _first(error: BaseException) -> str:
    """The first line of an error of Ray, which has many."""
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def _differ(there: str, here: str) -> str:
    return f"the Ray cluster has {there}, this machine mobilenas {here}: install the same on all"
