"""A file loaded and run in a fresh process that does only that: what it takes, and its memory.

The process imports the runtime and notes its resident memory, then loads the file, runs it RUNS
times on one random input and notes its peak. The difference is the growth: weights, activations,
what the runtime keeps, and the pages of the file that it maps; not the interpreter and the
runtime's own code. The peak is that of Linux's /proc.
"""

import importlib
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from mobilenas.base.errors import BadInput
from mobilenas.runtimes.open_file import check_file, open_exported

RUNS = 3
# What loading a file would import: code, which is not to be counted.
_IMPORTS = {
    ".onnx": ("onnxruntime",),
    ".pte": ("executorch.runtime", "mobilenas.runtimes.executorch"),
}
_STATUS, _RESET_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Probe:
    """Input and multiply-adds as in `Exported`. memory_bytes: the growth, None but on Linux."""

    input_shape: tuple[int, ...]
    input_dtype: str
    flops: int | None
    memory_bytes: int | None


def probe(path: Path, threads: int, resolution: int | None = None) -> Probe:
    """Load and run a file in a process of its own.

    Raises BadInput as `open_exported` does, and for a file that makes the process crash.
    """
    arguments = [str(path), str(threads), *([str(resolution)] if resolution else [])]
    done = subprocess.run(
        [sys.executable, "-m", __name__, *arguments], capture_output=True, text=True
    )
    if done.returncode != 0:
        raise BadInput(f"{path}: the process that loads it ended with code {done.returncode}")
    said = json.loads(done.stdout.splitlines()[-1])
    if "error" in said:
        raise BadInput(said["error"])
    return Probe(**said | {"input_shape": tuple(said["input_shape"])})


def _probe_here(path: Path, threads: int, resolution: int | None) -> Probe:
    check_file(path)  # before the baseline: it imports for a .pte file
    for module in _IMPORTS[path.suffix]:
        importlib.import_module(module)
    before = None
    if _RESET_PEAK.exists():
        _RESET_PEAK.write_text("5")  # the peak starts anew: imports had one of their own
        before = _status("VmRSS")
    exported = open_exported(path, threads, resolution)
    for _ in range(RUNS - 1):  # to open it was a run too
        exported.run()
    memory = None if before is None else _status("VmHWM") - before
    return Probe(exported.shape, exported.dtype, exported.flops, memory)


def _status(key: str) -> int:
    lines = (line.split() for line in _STATUS.read_text().splitlines())
    return next(1024 * int(words[1]) for words in lines if words[0] == f"{key}:")


if __name__ == "__main__":
    file, threads, *size = sys.argv[1:]
    try:
        answer = asdict(_probe_here(Path(file), int(threads), int(size[0]) if size else None))
    except BadInput as error:
        answer = {"error": str(error)}
    print(json.dumps(answer))
