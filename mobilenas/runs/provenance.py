"""What a run was started with: the command line, and the versions that ran it."""

import importlib.metadata
import platform
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import mobilenas

_PACKAGES = ("torch", "numpy", "timm", "pymoo", "onnx", "onnxruntime", "mmdet")
_ROOT = Path(mobilenas.__file__).parents[1]


def provenance() -> dict[str, str]:
    """The command (none where Python code called the library), Python, the machine, versions of
    packages that are installed, and the commit of the checkout that mobilenas is run from, if any.
    """
    packages = {name: found for name in _PACKAGES if (found := _version(name))}
    about = {
        "command": _command(),
        "commit": _commit(),
        "machine": platform.machine(),
        "mobilenas": mobilenas.__version__,
        "python": platform.python_version(),
        **packages,
    }
    return {name: text for name, text in about.items() if text}


def _command() -> str:
    """The command line, without --out, as folders move, and what says nothing of the run. --track
    may have a password in it.
    """
    if Path(sys.argv[0]).name not in ("mobilenas", "__main__.py"):
        return ""
    given = iter(sys.argv[1:])
    kept = []
    for word in given:
        if word in ("--out", "--track"):
            next(given, None)
        elif not word.startswith(("--out=", "--track=")) and word not in ("--json", "--resume"):
            kept.append(word)
    return shlex.join(["mobilenas", *kept])


@cache
def _commit() -> str:
    """Empty for an installation that is no checkout; `+` behind it says that files were changed."""
    if not (_ROOT / ".git").exists():
        return ""
    describe = ["git", "-C", str(_ROOT), "describe", "--always", "--abbrev=12", "--dirty=+"]
    try:
        done = subprocess.run(describe, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


@cache
def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
