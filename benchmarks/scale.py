"""What the scheduling of workers costs: a thousand of them, simulated, and a few real ones.

`simulate` drives the scheduling of `--workers` itself, on a clock of its own: 1,000 workers and
100,000 evaluations whose times are drawn, of workers that differ in speed, die, hang, and of archs
that fail. Nothing is trained, so all the time that passes is that of the scheduling. The makespan
is against its lower bound: the work by the speed of all workers, had nothing failed and no worker
waited. `search` measures the archs of a supernet by 1, 2 and 4 processes of this machine.

    python benchmarks/scale.py simulate
    python benchmarks/scale.py search --supernet runs/supernet
"""

import heapq
import itertools
import logging
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch
from harness import PathOption, Table

from mobilenas.evaluate.evaluator import SupernetEvaluator
from mobilenas.evaluate.workers import SCORE, arch_workers
from mobilenas.space import Space
from mobilenas.train.supernets import open_supernet_run
from mobilenas.workers import Workers, WorkersAsked, even_groups
from mobilenas.workers.schedule import Event

START, DETECT = 20.0, 1.0  # seconds until a worker is up, and until a dead one is noticed
FAILING = 20  # of the archs
SEED = 0


class Simulated:
    """A `Backend` whose workers are numbers. An evaluation takes a log-normal time of 10 s in the
    median, by the speed of the worker, which is drawn from 0.5 to 2.

    die, hang: the share of evaluations at which a worker does. Another one then starts on the same
    machine, as fast.
    """

    def __init__(self, count: int, die: float, hang: float) -> None:
        self.count, self._die, self._hang = count, die, hang
        self._rng = np.random.default_rng(SEED)
        self._speed: dict[int, float] = {}
        self._free = self._rng.uniform(0.5, 2, count).tolist()  # machines without a worker
        self.speed = sum(self._free)
        self._clock, self._number = 0.0, itertools.count()
        self._coming: list[tuple[float, int, Event]] = []
        self._stopped: set[int] = set()
        self.died = self.hung = 0
        self.work = 0.0  # seconds of a worker of speed 1, of evaluations that came to an end

    def start(self, worker: int) -> None:
        self._speed[worker] = self._free.pop()
        self._expect(START, Event(worker, "ready"))

    def send(self, worker: int, what: str, items: Sequence[str]) -> None:
        fate = self._rng.random(len(items))
        seconds = self._rng.lognormal(np.log(10), 0.5, len(items))
        taken = float(seconds.sum()) / self._speed[worker]
        if (fate < self._hang).any():
            self.hung += 1
        elif (fate < self._hang + self._die).any():
            self.died += 1
            self._expect(taken / 2 + DETECT, Event(worker, "died", "killed by signal 9"))
        elif any(int(item) < FAILING for item in items):
            self._expect(taken / 2, Event(worker, "failed", "RuntimeError: out of memory"))
        else:
            self.work += float(seconds.sum())
            self._expect(taken, Event(worker, "done", [0.5] * len(items)))

    def wait(self, seconds: float | None) -> list[Event]:
        end = np.inf if seconds is None else self._clock + seconds
        while self._coming and self._coming[0][0] <= end:
            self._clock, _, event = heapq.heappop(self._coming)
            if event.worker not in self._stopped:
                return [event]
        self._clock = end
        return []

    def stop(self, worker: int) -> None:
        self._stopped.add(worker)
        self._free.append(self._speed.pop(worker))

    def now(self) -> float:
        return self._clock

    def close(self) -> None:
        pass

    def _expect(self, seconds: float, event: Event) -> None:
        if event.kind == "died":
            self._free.append(self._speed.pop(event.worker))
        heapq.heappush(self._coming, (self._clock + seconds, next(self._number), event))


def simulate(
    workers: str = "1,10,100,1000",
    evaluations: int = 100_000,
    at_once: str = "1,10",
    timeout: float = 600,
    die: float = 1e-3,
    hang: float = 1e-4,
) -> Iterator[Table]:
    """Evaluations in groups of --at-once, with and without failures."""
    logging.getLogger("mobilenas.workers").setLevel(logging.ERROR)  # not each of the failures
    rows: list[dict[str, Any]] = []
    for count, size in itertools.product(harness.numbers(workers), harness.numbers(at_once)):
        for name, shares in {"none": (0.0, 0.0), "some": (die, hang)}.items():
            rows.append({"workers": count, "group": size, "failures": name})
            rows[-1] |= _simulated(count, evaluations, size, timeout, *shares)
    formats = {"us a task": ".0f", "makespan": ".0f", "lower bound": ".0f", "ratio": ".3f"}
    title = f"{evaluations:,} evaluations; makespan in seconds of a simulated clock"
    yield Table(rows, formats | {"driver MB": ".1f"}, title)


def _simulated(
    count: int, evaluations: int, at_once: int, timeout: float, die: float, hang: float
) -> dict[str, float | int]:
    # Failing archs are in the middle of all, as any others.
    items = [str((i + FAILING + evaluations // 2) % evaluations) for i in range(evaluations)]
    if not die:
        items = [str(int(item) + FAILING) for item in items]

    def run() -> tuple[Simulated, int, int]:
        backend = Simulated(count, die, hang)
        done = left_out = 0
        for outcome in Workers(backend, timeout)("measure", even_groups(items, at_once, count)):
            done += len(outcome.items) if outcome.results else 0
            left_out += outcome.results is None
        return backend, done, left_out

    start = time.process_time()
    backend, done, left_out = run()
    seconds = time.process_time() - start
    assert done + left_out == evaluations
    tracemalloc.start()
    run()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    tasks = len(even_groups(items, at_once, count))
    bound = backend.work / backend.speed
    return {
        "tasks": tasks,
        "died": backend.died,
        "hung": backend.hung,
        "left out": left_out,
        "us a task": 1e6 * seconds / tasks,
        "makespan": backend.now(),
        "lower bound": bound,
        "ratio": backend.now() / bound,
        "driver MB": peak / 2**20,
    }


def search(
    supernet: PathOption, workers: str = "1,2,4", archs: int = 200, rounds: int = 1
) -> Iterator[Table]:
    """Archs a second that processes of one thread measure: accuracy and NASWOT."""
    torch.set_num_threads(1)
    evaluator = SupernetEvaluator(open_supernet_run(Path(supernet)))
    space = evaluator.run.space
    assert isinstance(space, Space)
    rng = np.random.default_rng(SEED)
    drawn = sorted({str(space.canonical(space.sample(rng))) for _ in range(archs)})
    groups = even_groups(drawn, 10, 1)
    rows, found = [], []
    for _ in range(rounds):
        for count in harness.numbers(workers):
            with arch_workers(WorkersAsked(count), evaluator, SEED, 1) as several:
                start = time.monotonic()
                list(several(SCORE, [[arch] for arch in drawn[:count]]))  # now they are up
                up = time.monotonic()
                outcomes = list(several(SCORE, groups))
                seconds = time.monotonic() - up
            found.append(sorted((x.items, x.results) for x in outcomes))
            row = {"workers": count, "archs": len(drawn), "start s": up - start, "s": seconds}
            rows.append(row | {"archs/s": len(drawn) / seconds})
    assert all(figures == found[0] for figures in found)
    yield Table(rows, {"start s": ".1f", "s": ".1f", "archs/s": ".2f"}, f"{space.name}")


if __name__ == "__main__":
    harness.main(simulate, search)
