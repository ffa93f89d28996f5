"""Who can connect to a process: the addresses that it, and those below it, listen on (Linux)."""

from pathlib import Path

_LISTENING = "0A"  # in /proc/net/tcp
LOOPBACK = {"0100007F", "0" * 24 + "01000000", "0000000000000000FFFF00000100007F"}


def listened_on(process: int) -> set[str]:
    """Addresses as /proc/net/tcp has them."""
    sockets = _sockets(process)
    rows = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    fields = [row.split() for row in rows.splitlines()]
    return {f[1].split(":")[0] for f in fields if f[3] == _LISTENING and f[9] in sockets}


def _sockets(ancestor: int) -> set[str]:
    """Inodes of the sockets that a process and those below it have open."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = set()
    for pid in parents:
        above = pid
        while above not in (0, ancestor):
            above = parents.get(above, 0)
        if above == ancestor:
            for file in Path(f"/proc/{pid}/fd").glob("*"):
                try:
                    found.add(str(file.readlink()).removeprefix("socket:[").rstrip("]"))
                except OSError:
                    continue
    return found
