"""Exported files against each other on this host: latency in turns, memory, size."""

import importlib.metadata
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mobilenas.base.errors import BadInput
from mobilenas.base.files import write_json
from mobilenas.base.progress import ProgressBar
from mobilenas.latency.host import processor
from mobilenas.latency.measure import CONTROL, Timing, TimingLog, take_turns
from mobilenas.runs.beside import BENCH
from mobilenas.runtimes.base import timed
from mobilenas.runtimes.open_file import RUNTIMES, check_file, open_exported, size_of
from mobilenas.runtimes.probe import Probe, probe

VISIT_SECONDS = 0.1

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FileBench:
    """One file: what it takes (`Probe` has more on these), size (`size_of`), and time.

    ms, spread_ms: median and quartile range of its visits; runs: those of all visits. ms_per_gmac:
    ms over the multiply-adds of the input's images, in units of 10^9. ratio: ms over that of the
    first file.
    """

    path: str
    runtime: str
    runtime_version: str
    input_shape: tuple[int, ...]
    input_dtype: str
    flops: int | None
    memory_bytes: int | None
    size_bytes: int
    ms: float
    spread_ms: float
    runs: int
    ms_per_gmac: float | None
    ratio: float


@dataclass(frozen=True)
class Bench:
    """What `bench_files` found. first_uncorrected: how steady the machine was, see there."""

    processor: str
    threads: int
    rounds: int
    first_uncorrected: Timing
    files: tuple[FileBench, ...]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self)

    def store(self) -> None:
        """Write what was found of each file beside it, where a report finds it."""
        about = {"processor": self.processor, "threads": self.threads, "rounds": self.rounds}
        for file in self.files:
            write_json(Path(file.path + BENCH), asdict(file) | about)


def bench_files(
    paths: Sequence[Path], *, threads: int, rounds: int, resolution: int | None = None
) -> Bench:
    """Time .onnx and .pte files on the CPU of this host, and note size and memory.

    In every round each file is visited once, in a new order: loaded afresh, warmed up, run for
    VISIT_SECONDS; the median of its runs is the visit. In between the first file is timed again, as
    the control that corrects the visits for drift of the machine (`mobilenas.latency.measure`);
    `first_uncorrected` is what these timings were. resolution: side of the images for graphs that
    take any size; one of a fixed size keeps it, which is logged. Raises BadInput as `open_exported`
    does, and where no graph takes the resolution.
    """
    for path in paths:
        check_file(path)
    with (
        tempfile.TemporaryDirectory() as folder,
        ProgressBar("bench", len(paths) * (1 + rounds)) as bar,
    ):
        probes = []
        for path in paths:  # in processes of their own first: a file may crash the one it is in
            probes.append(probe(path, threads, resolution))
            bar.advance(1, "memory")
        if resolution is not None:
            _check_taken(
                resolution, {path: x.input_shape for path, x in zip(paths, probes, strict=True)}
            )
        files = {str(number): path for number, path in enumerate(paths)}

        def time(key: str) -> list[float]:
            path = files["0" if key == CONTROL else key]
            return timed(open_exported(path, threads, resolution).run, VISIT_SECONDS)

        log = TimingLog(Path(folder) / "timings.jsonl")
        take_turns(list(files), time, log, rounds=rounds, bar=bar)
    timings, control = log.timings(), log.control()
    assert control is not None
    first_ms = timings["0"].median_ms
    benches = tuple(
        _file_bench(path, found, timings[number], first_ms)
        for (number, path), found in zip(files.items(), probes, strict=True)
    )
    return Bench(processor(), threads, rounds, control, benches)


def _check_taken(resolution: int, shapes: Mapping[Path, tuple[int, ...]]) -> None:
    """Name the files whose size is fixed to another one. Raises BadInput if these are all."""
    fixed = {path: shape for path, shape in shapes.items() if resolution not in shape[1:]}
    said = [f"{p} only takes images of {'x'.join(map(str, x[1:]))}" for p, x in fixed.items()]
    if len(fixed) == len(shapes):
        raise BadInput(f"--resolution {resolution}: leave it out; {', '.join(said)}")
    for text in said:
        log.warning("--resolution %d: %s", resolution, text)


def _file_bench(path: Path, found: Probe, timing: Timing, first_ms: float) -> FileBench:
    runtime, ms = RUNTIMES[path.suffix], timing.median_ms
    return FileBench(
        path=str(path),
        runtime=runtime,
        runtime_version=importlib.metadata.version(runtime),
        **asdict(found),
        size_bytes=size_of(path),
        ms=ms,
        spread_ms=timing.spread_ms,
        runs=timing.count,
        ms_per_gmac=ms / (found.input_shape[0] * found.flops / 1e9) if found.flops else None,
        ratio=ms / first_ms,
    )
