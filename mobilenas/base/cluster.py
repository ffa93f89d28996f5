"""Ray, the engine of work on several machines: a cluster that is there, or this host alone."""

import logging
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mobilenas.base.errors import BadInput, one_line, shortened
from mobilenas.base.process import closed_when_told_to_end

_SECONDS = 5.0  # to find out whether anything listens at an address
_STORE_BYTES = 100 << 20  # of Ray's object store, of which little is used here


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """The module `ray`, connected for the length of the block.

    address: `ray://HOST:PORT` of a cluster; None starts one of this host alone, on loopback and
    without a dashboard. Raises BadInput where Ray is not installed, or not at the address.
    """
    check_cluster(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would send figures of its use
    if address is None:
        # Read when ray is imported. Its name is that of the systems where this is the default.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    import ray

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
            raise BadInput(
                f"no connection to Ray, {where}: {one_line(error)} (where a cluster asks for a "
                "token, RAY_AUTH_MODE=token shows yours)"
            ) from None
        try:
            # Ray has put a handler of its own, and prints that a worker has died.
            with closed_when_told_to_end(), redirect_stdout(sys.stderr):
                yield ray
        finally:
            ray.shutdown()


def check_cluster(address: str | None) -> None:
    """Raise BadInput, in seconds, unless Ray is installed and something listens at the address:
    Ray itself would try for minutes.
    """
    if find_spec("ray") is None:
        raise BadInput("ray is not installed: pip install '.[dist]' in the checkout")
    if address is None:
        return
    host_and_port = parse_address(address)
    try:
        socket.create_connection(host_and_port, _SECONDS).close()
    except OSError as error:
        why = f"no Ray is there ({error.strerror or error})"
        raise BadInput(f"address {address}: {why}") from None


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of ray://HOST:PORT. Raises BadInput."""
    scheme, _, place = text.partition("://")
    host, _, port = place.rpartition(":")
    is_port = port.isdecimal() and len(port) < 6 and 0 < int(port) < 2**16
    if scheme != "ray" or not host or not is_port:
        raise BadInput(f"address {shortened(text)}: must be ray://HOST:PORT")
    return host.strip("[]"), int(port)
