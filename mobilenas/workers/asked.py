"""What `--workers` and `--worker-timeout` ask for, and such workers."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec

from mobilenas.base.cluster import connected
from mobilenas.base.errors import BadInput, shortened
from mobilenas.workers.cluster import RayActors
from mobilenas.workers.here import Work
from mobilenas.workers.processes import Processes
from mobilenas.workers.schedule import Backend, Workers

_MOST = 512  # processes
_CONNECT_SECONDS = 5
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
            host, _, port = text.removeprefix(f"{RAY}://").rpartition(":")
            if not (host and port.isdecimal() and 0 < int(port) < 2**16):
                raise BadInput(f"--workers {shortened(text)}: write ray://HOST:PORT")
            return cls(None, text, timeout)
        if not (text.isdecimal() and len(text) < 9 and 1 <= int(text) <= _MOST):
            raise BadInput(
                f"--workers {shortened(text)}: must be a number from 1 to {_MOST}, ray, or "
                "ray://HOST:PORT"
            )
        return cls(int(text), None, timeout)

    def check(self) -> None:
        """Raise BadInput where there is no Ray that could be used: not installed, or not at the
        address, where Ray itself would try for half a minute.
        """
        if self.count is not None:
            return
        if find_spec("ray") is None:
            raise BadInput("--workers ray: install Ray, pip install 'mobilenas[dist]'")
        if self.address is not None:
            host, _, port = self.address.removeprefix(f"{RAY}://").rpartition(":")
            try:
                socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
            except OSError as error:
                why = error.strerror or error
                raise BadInput(f"--workers {self.address}: no Ray there ({why})") from None

    def threads_each(self, all_threads: int) -> int:
        """Threads of each worker: what OMP_NUM_THREADS says, which all_threads then is too; else a
        share of all, and of one on Ray, whose machines may have any number of cores, one.
        """
        if "OMP_NUM_THREADS" in os.environ:
            return all_threads
        return max(1, all_threads // self.count) if self.count else 1


ONE_WORKER = WorkersAsked()


@contextmanager
def open_workers(asked: WorkersAsked, make: Callable[[], Work], threads: int) -> Iterator[Workers]:
    """The workers that are asked for, which end with the block.

    make: sent to each worker and called there once; what it gives does the work, with so many
    threads. Raises BadInput.
    """
    with ExitStack() as stack:
        backend: Backend
        if asked.count is None:
            backend = RayActors(stack.enter_context(connected(asked.address)), make, threads)
        else:
            backend = Processes(make, asked.count)
        stack.callback(backend.close)
        yield Workers(backend, asked.timeout)
