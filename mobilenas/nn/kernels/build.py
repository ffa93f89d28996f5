"""Compiles `bottleneck.cpp`. The installation does it (hatch_build.py), where there is no torch.

python mobilenas/nn/kernels/build.py
"""

import hashlib
import os
import platform
import shlex
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("bottleneck.cpp")
HEADERS = ("loops.h", "norms.h")  # beside it
# What a library is made for, by torch's name of what a processor can (`get_cpu_capability`).
TARGETS = {"AVX512": "x86-64-v4", "AVX2": "x86-64-v3"}


class NotBuilt(Exception):
    """Nothing was compiled, and why."""


def library_path(target: str) -> Path:
    """Where the library of this source is. One of another source has another name."""
    sources = [*(SOURCE.with_name(name) for name in HEADERS), SOURCE]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources))
    return SOURCE.with_name(f"bottleneck-{digest.hexdigest()[:8]}-{target}.so")


def build() -> list[Path]:
    """The libraries of all targets, compiled by $CXX or c++ where they are not there yet. Those of
    another source are removed.

    Raises NotBuilt on other processors and systems than x86-64 with Linux, and where the compiler
    is missing or fails.
    """
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise NotBuilt(f"there are none for {platform.system()} on {platform.machine()}")
    libraries = [library_path(target) for target in TARGETS.values()]
    for target, path in zip(TARGETS.values(), libraries, strict=True):
        if not path.exists():
            _compile(target, path)
    for other in set(SOURCE.parent.glob("bottleneck-*.so")) - set(libraries):
        other.unlink()
    return libraries


def _compile(target: str, path: Path) -> None:
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    how = ["-std=c++17", "-O3", f"-march={target}", "-fopenmp", "-fPIC", "-shared"]
    partial = path.with_suffix(f".{os.getpid()}")
    command = [*compiler, *how, str(SOURCE), "-o", str(partial)]
    try:
        subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True)
    except OSError as error:
        raise NotBuilt(f"no C++ compiler: {error}") from None
    except subprocess.CalledProcessError as error:
        partial.unlink(missing_ok=True)
        raise NotBuilt(f"{shlex.join(compiler)} failed: {error.stderr.strip()}") from None
    partial.rename(path)


if __name__ == "__main__":
    try:
        print(*build(), sep="\n")
    except NotBuilt as error:
        raise SystemExit(f"no kernels: {error}") from None
