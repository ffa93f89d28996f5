"""What it takes to load a data set into memory: CPU time, wall time and memory of fresh processes.

python benchmarks/loading.py --data DIR
"""

import hashlib
import resource
import time
from collections.abc import Iterator

import harness
from harness import Case, Data, Table


def main(data: Data, resolution: int = 32, rounds: int = 5) -> Iterator[Table]:
    """The images of --data, decoded, at --resolution."""
    asked = {"data": data, "resolution": resolution}
    yield harness.compare([Case("mobilenas", load, asked)], rounds)


def load(data: str, resolution: int) -> dict[str, float]:
    """The checksum is of the training pixels, so that versions can be compared."""
    from mobilenas.data import load_data

    before, cpu, wall = peak(), time.process_time(), time.perf_counter()
    loaded = load_data(data, resolution)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    parts = [part.pixels for part in (loaded.train, loaded.test) if part is not None]
    pixels = sum(part.nbytes for part in parts)
    return {
        "CPU, s": cpu,
        "wall, s": wall,
        "pixels, MB": pixels / 1e6,
        "memory above them, MB": (peak() - before - pixels) / 1e6,
        "checksum": int(hashlib.sha256(parts[0]).hexdigest()[:6], 16),
    }


def peak() -> int:
    """The largest memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    harness.main(main)
