"""What a table notes of this host: its processor, the date, versions of packages."""

import importlib.metadata
import platform
from datetime import UTC, datetime
from pathlib import Path

from mobilenas.errors import BadInput


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


def package_version(package: str, extra: str) -> str:
    """Version of an installed package. Raises BadInput naming the extra that brings it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise BadInput(
            f"{package} is not installed: pip install 'mobilenas[{extra}]' brings it"
        ) from None
