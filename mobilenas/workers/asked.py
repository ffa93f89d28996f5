"""What `--workers` and `--worker-timeout` ask for, and such workers."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from mobilenas.base.cluster import check_cluster, connected, parse_address
from mobilenas.base.errors import BadInput, shortened
from mobilenas.workers.cluster import RayActors
from mobilenas.workers.here import Work
from mobilenas.workers.processes import Processes
from mobilenas.workers.schedule import TRIES, Backend, Workers

_MOST = 512  # processes
_LONGEST = 10**6  # seconds
RAY = "ray"


@dataclass(frozen=True)
class WorkersAsked:
    """count: processes of this machine, or None for Ray: the cluster at `address`, None for one
    that is started for this command. timeout: seconds that a worker may take for a group.
    """

    count: int | None = 1
    address: str | None = None
    timeout: float | None = None

    @classmethod
    def parse(cls, text: str, timeout: float | None = None) -> "WorkersAsked":
        """Read N, ray or ray://HOST:PORT. Raises BadInput."""
        if timeout is not None and not 1 <= timeout <= _LONGEST:
            raise BadInput(f"--worker-timeout {timeout:g}: must be from 1 to {_LONGEST:,} seconds")
        if text == RAY:
            return cls(None, None, timeout)
        if text.startswith(f"{RAY}://"):
            try:
                parse_address(text)
            except BadInput as error:
                raise BadInput(f"--workers: {error}") from None
            return cls(None, text, timeout)
        if not (text.isdecimal() and len(text) < 9 and 1 <= int(text) <= _MOST):
            raise BadInput(
                f"--workers {shortened(text)}: must be a number from 1 to {_MOST}, ray, or "
                "ray://HOST:PORT"
            )
        return cls(int(text), None, timeout)

    def check(self) -> None:
        """Raise BadInput where Ray is asked for and there is none that could be used."""
        if self.count is None:
            check_cluster(self.address)

    def threads_each(self, all_threads: int) -> int:
        """Threads of each worker: what OMP_NUM_THREADS says, which all_threads then is too; else a
        share of all, and of one on Ray, whose machines may have any number of cores, one.
        """
        if "OMP_NUM_THREADS" in os.environ:
            return all_threads
        return max(1, all_threads // self.count) if self.count else 1


ONE_WORKER = WorkersAsked()


@contextmanager
def open_workers(
    asked: WorkersAsked, make: Callable[[], Work], threads: int, tries: int = TRIES
) -> Iterator[Workers]:
    """The workers that are asked for, which end with the block.

    make: sent to each worker and called there once; what it gives does the work, with so many
    threads. tries: of an item of work. Raises BadInput.
    """
    with ExitStack() as stack:
        backend: Backend
        if asked.count is None:
            backend = RayActors(stack.enter_context(connected(asked.address)), make, threads)
        else:
            backend = Processes(make, asked.count)
        stack.callback(backend.close)
        yield Workers(backend, asked.timeout, tries)
