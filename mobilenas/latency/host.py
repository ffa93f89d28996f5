"""What a table notes of this host: its processor and the date."""

import platform
from datetime import UTC, datetime
from pathlib import Path


def processor() -> str:
    """The processor, as the system names it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def today() -> str:
    """The date, UTC."""
    return datetime.now(UTC).date().isoformat()
