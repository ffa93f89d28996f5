"""Process settings that make CPU training fast, made before torch is imported; and how one ends."""

import contextlib
import ctypes
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import NoReturn

log = logging.getLogger(__name__)

# What torchrun tells the processes that it starts.
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
# glibc's mallopt names (malloc.h)
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_PR_SET_PDEATHSIG = 1  # prctl.h


def tune_process() -> None:
    """Keep freed memory for reuse, and let idle threads sleep soon.

    glibc gives every buffer above 32 MB back to the kernel and faults it in again page by page:
    up to half of a training step. Idle OpenMP threads spin by default, which is ruinous where
    another process wants the core; not spinning at all cost 10 % of a training step on idle cores,
    a few microseconds of it hardly anything. Variables that the user has set are left alone.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    if not sys.platform.startswith("linux") or "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        log.info("no glibc here: large buffers will be returned to the system after each use")
        return
    mallopt(_M_MMAP_THRESHOLD, 1 << 30)
    mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
    mallopt(_M_TOP_PAD, 64 << 20)


def release_memory() -> None:
    """Give freed memory back to the system, which `tune_process` keeps: between two kinds of work
    whose buffers differ in size, so that the second does not come on top of the first.
    """
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):  # no glibc: nothing was kept
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def is_one_of_several() -> bool:
    """Whether torchrun started this process."""
    return all(name in os.environ for name in TORCHRUN)


def end_at_once(code: str | int | None) -> NoReturn:
    """End with that exit code, without the usual clearing up.

    For a process that was connected to others: threads of gloo were seen to abort it in between,
    its work done, in one of some fifty runs.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def end_with_parent() -> None:
    """Let this process be killed when the one that started it ends, however it ends: what is
    resumed then would have two writers (Linux only).
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@contextlib.contextmanager
def closed_when_told_to_end() -> Iterator[None]:
    """Let SIGTERM raise SystemExit in the block, so that processes started there are ended too."""
    if threading.current_thread() is not threading.main_thread():  # others get no signals
        yield
        return

    def end(number: int, _: object) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
