"""Ray, the engine of work on several machines: a cluster that is there, or this host alone."""

import logging
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from mobilenas.base.errors import BadInput, one_line
from mobilenas.base.process import closed_when_told_to_end

_SECONDS = 5.0  # to find out whether anything listens at an address
_STORE_BYTES = 100 << 20  # of Ray's object store, of which little is used here


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """The module `ray`, connected for the length of the block.

    address: `HOST:PORT` of a cluster that this host is part of, or `ray://HOST:PORT` of any; None
    starts one of this host alone, on loopback and without a dashboard. Raises BadInput where there
    is no Ray: not installed, or not at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would send figures of its use
    if address is None:
        # Read when ray is imported. Its name is that of the systems where this is the default.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    else:
        _check_listens(address)
    try:
        import ray
    except ImportError:
        raise BadInput("ray is not installed: pip install 'mobilenas[dist]'") from None
    # Names of its sockets may have 107 characters; to its last processes the folder is still there.
    short = "/tmp" if Path("/tmp").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="ray", dir=short, ignore_cleanup_errors=True) as folder:
        own = {
            "include_dashboard": False,
            "object_store_memory": _STORE_BYTES,
            "_temp_dir": folder,
        }
        try:
            ray.init(
                address or "local",
                log_to_driver=False,
                logging_level=logging.ERROR,
                **(own if address is None else {}),
            )
        except Exception as error:  # of many kinds, of Ray and of gRPC
            where = address or "on this host"
            raise BadInput(f"no connection to Ray, {where}: {one_line(error)}") from None
        try:
            # Ray has put a handler of its own, and prints that a worker has died.
            with closed_when_told_to_end(), redirect_stdout(sys.stderr):
                yield ray
        finally:
            ray.shutdown()


def _check_listens(address: str) -> None:
    """Raise BadInput unless something listens there: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if not host:
            raise ValueError
        with closing(socket.create_connection((host, int(port)), _SECONDS)):
            return
    except (ValueError, OverflowError):
        why = "must be HOST:PORT or ray://HOST:PORT"
    except OSError as error:
        why = f"no Ray is there ({error.strerror or error})"
    raise BadInput(f"address {address}: {why}")
