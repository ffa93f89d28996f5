"""A run folder, or a file that takes long to make, is written by one command at a time.

The lock is one of the kernel (a POSIX record lock on a small file): of two commands that start at
the same instant one has it, and it ends with its process, however that ends, so that no number of
a process has to be trusted. Unlike flock's it is not inherited by data workers, which outlive a
killed command for seconds; and NFS has it. What the file says tells others who is at work. It also
guards where machines do not see each other's locks: what another machine has left is refused,
though its command may have been killed. There, two that start at the same instant are not told
apart; where there are no locks at all, that is logged.
"""

import errno
import json
import logging
import os
import socket
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from mobilenas.base.errors import BadInput
from mobilenas.base.files import remove_torn

if sys.platform != "win32":
    import fcntl

_TRIES = 1000  # to get hold of a file that others make and take away
_BOOT = Path("/proc/sys/kernel/random/boot_id")  # the same in all containers of a machine

log = logging.getLogger(__name__)


@contextmanager
def held(path: Path, command: str, *, is_file: bool = False) -> Iterator[None]:
    """Keep other commands out of a run folder or, if `is_file`, off one file.

    The folder is made, and taken away again if nothing was put into it. command: its words after
    `mobilenas`. Raises BadInput saying which process of which machine is at work.
    """
    lock = path.with_name(f".{path.name}.lock") if is_file else path / ".lock"
    made = [folder for folder in lock.parents if not folder.exists()]
    try:
        file, left = _locked(lock, path)
        try:
            if left is not None:
                log.info("%s was left by process %s, which has ended", path, left["process"])
                if not is_file:
                    remove_torn(path)
            _write(file, {"process": os.getpid(), **_here(), "command": command})
            yield
        finally:
            lock.unlink(missing_ok=True)  # before it is free: who opened it looks for it again
            file.close()
    finally:
        with suppress(OSError):  # there is something in it
            for folder in made:
                folder.rmdir()


@contextmanager
def all_held(paths: Iterable[Path], command: str) -> Iterator[None]:
    """As `held`, of several run folders: those that one command fills."""
    with ExitStack() as locks:
        for path in paths:
            locks.enter_context(held(path, command))
        yield


def _locked(lock: Path, path: Path) -> tuple[BinaryIO, dict[str, Any] | None]:
    """The open file of a lock, which is ours, and what a command that was killed has left in it."""
    for _ in range(_TRIES):
        lock.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # the folder was taken away in between
            file = os.fdopen(os.open(lock, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
            try:
                if not _take(file, path):
                    raise BadInput(f"{path} is in use by {_words(_read(file))}")
                if os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                    left = _read(file)
                    if left is not None and not _is_of_here(left):
                        raise BadInput(
                            f"{path} is in use by {_words(left)}, which cannot be asked from "
                            f"{socket.gethostname()}: if it has ended, remove {lock}"
                        )
                    return file, left
            except BaseException:
                file.close()
                raise
            file.close()
    raise BadInput(f"{path} is in use: other commands start in it all the time")


def _take(file: BinaryIO, path: Path) -> bool:
    """Whether no other process has it; then this one has, to its end or until it closes it."""
    try:
        if sys.platform != "win32":
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
    log.warning("%s: there are no locks here, so nothing keeps another command out of it", path)
    return True


def _read(file: BinaryIO) -> dict[str, Any] | None:
    """What its holder has written; None where it has not come to that."""
    file.seek(0)
    try:
        holder = json.loads(file.read())
        return {name: holder[name] for name in ("process", "host", "boot", "command")}
    except (ValueError, KeyError, TypeError):
        return None


def _write(file: BinaryIO, holder: dict[str, Any]) -> None:
    file.seek(0)
    file.truncate()
    file.write(json.dumps(holder).encode())
    file.flush()
    os.fsync(file.fileno())  # so that other machines read it


def _here() -> dict[str, str | None]:
    boot = _BOOT.read_text().strip() if _BOOT.exists() else None
    return {"host": socket.gethostname(), "boot": boot}


def _is_of_here(holder: dict[str, Any]) -> bool:
    """Whether the kernel that knows the holder is the one that gave us its lock."""
    here = _here()
    return holder["host"] == here["host"] or holder["boot"] == here["boot"] is not None


def _words(holder: dict[str, Any] | None) -> str:
    if holder is None:
        return "another command, which is just starting"
    return f"process {holder['process']} on {holder['host']} (mobilenas {holder['command']})"
