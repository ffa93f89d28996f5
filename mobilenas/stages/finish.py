"""Commands that finish run folders, each in a process of its own, several at once.

RUN/output.txt   what its process printed
"""

import logging
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mobilenas.base.errors import BadInput
from mobilenas.base.process import end_with_parent
from mobilenas.workers import WorkersAsked, open_workers
from mobilenas.workers.here import Work

_OUTPUT = "output.txt"
_TRIES = 2  # of a run whose process dies
_POLL_SECONDS = 0.05

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finish:
    """`mobilenas COMMAND --resume --out RUN` and options, with so many threads. Also what a worker
    on Ray does.
    """

    command: str
    options: tuple[str, ...]
    threads: int

    def start(self, path: Path) -> "subprocess.Popen[bytes]":
        """The process that finishes a run folder."""
        words = [sys.executable, "-m", "mobilenas", self.command, "--resume", "--out", str(path)]
        with (path / _OUTPUT).open("ab") as output:
            return subprocess.Popen(
                [*words, *self.options],
                env=os.environ | {"OMP_NUM_THREADS": str(self.threads)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=end_with_parent,
            )

    def __call__(self) -> Work:
        return self._run

    def _run(self, what: str, paths: Sequence[str]) -> list[None]:
        for path in map(Path, paths):
            code = self.start(path).wait()
            if code == 2:
                raise BadInput(_last_line(path))
            if code:
                raise RuntimeError(_end(path, code))
        return [None] * len(paths)


def finish_runs(
    paths: Sequence[Path], finish: Finish, workers: WorkersAsked, done: Callable[[Path], None]
) -> dict[Path, str]:
    """Finish run folders; how those have ended that failed for good. done: called after each.

    A process that dies is started once more. However this ends, its processes end too. On Ray the
    folders must be in the same place on all machines. Raises BadInput, which ends all.
    """
    if workers.count is None:
        return _on_ray(paths, finish, workers, done)
    return _here(paths, finish, workers.count, done)


def _here(
    paths: Sequence[Path], finish: Finish, workers: int, done: Callable[[Path], None]
) -> dict[Path, str]:
    waiting, tries, failed = deque(paths), dict.fromkeys(paths, 0), {}
    running: dict[Path, subprocess.Popen[bytes]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                path = waiting.popleft()
                tries[path] += 1
                running[path] = finish.start(path)
            time.sleep(_POLL_SECONDS)
            ended = {path: p.returncode for path, p in running.items() if p.poll() is not None}
            for path, code in ended.items():
                del running[path]
                if code == 0:
                    done(path)
                elif code == 2:
                    raise BadInput(_last_line(path))
                elif tries[path] < _TRIES:
                    log.info("%s: %s; it is started once more", path.name, _end(path, code))
                    waiting.appendleft(path)
                else:
                    failed[path] = _end(path, code)
    finally:
        for process in running.values():
            process.kill()  # a run may be killed at any time
        for process in running.values():
            process.wait()
    return failed


def _on_ray(
    paths: Sequence[Path], finish: Finish, asked: WorkersAsked, done: Callable[[Path], None]
) -> dict[Path, str]:
    failed = {}
    # A worker's timeout is for groups of measured archs: a training may take as long as it needs.
    asked = replace(asked, timeout=None)
    with open_workers(asked, finish, finish.threads, _TRIES) as workers:
        for outcome in workers(finish.command, [[str(path.resolve())] for path in paths]):
            path = Path(outcome.items[0])
            if outcome.results is None:
                failed[path] = outcome.why
            else:
                done(path)
    return failed


def _end(path: Path, code: int) -> str:
    """How a process ended: by which signal, or its last words."""
    return f"killed by signal {-code}" if code < 0 else _last_line(path)


def _last_line(path: Path) -> str:
    lines = (path / _OUTPUT).read_text(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
    return last.removeprefix("mobilenas: ")
