"""Sizes and durations as people write them: 500M, 0.5G, 12k; 320, 800x1280; 20ms, 1.5s, 800us."""

import re

from mobilenas.base.errors import BadInput, shortened

_FACTORS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}
_MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


def parse_size(text: str) -> int:
    """The number that `500M`, `0.5G`, `12k` or `300000` stands for. Raises BadInput."""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,15})?)\s*([kMG]?)", text.strip())
    if not match:
        raise BadInput(
            f"{shortened(text)!r} is not a size: write a number with k, M or G, such as 500M"
        )
    return round(float(match[1]) * _FACTORS[match[2]])


def format_size(value: float) -> str:
    """A size with three or four digits and its unit: 388.1M."""
    for unit in ("G", "M", "k"):
        if abs(value) >= _FACTORS[unit] * 0.9995:
            return f"{value / _FACTORS[unit]:.4g}{unit}"
    return f"{value:.4g}"


def parse_image_size(text: str) -> tuple[int, int]:
    """Height and width in pixels that `320` or `800x1280` stands for. Raises BadInput."""
    match = re.fullmatch(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?", text.strip())
    if not match:
        raise BadInput(
            f"{shortened(text)!r} is not an image size: write 320, or 800x1280 (height x width)"
        )
    return int(match[1]), int(match[2] or match[1])


def format_image_size(size: tuple[int, int]) -> str:
    """A (height, width) in pixels: 320 where they are equal, else 800x1280."""
    height, width = size
    return str(height) if height == width else f"{height}x{width}"


def parse_duration(text: str) -> float:
    """The milliseconds that `20ms`, `1.5s` or `800us` stands for. Raises BadInput."""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,15})?)\s*(us|ms|s)", text.strip())
    if not match:
        raise BadInput(
            f"{shortened(text)!r} is not a duration: write a number with us, ms or s, such as 20ms"
        )
    return float(match[1]) * _MILLISECONDS[match[2]]


def format_ms(value: float) -> str:
    """Milliseconds with four digits: 12.35 ms; all of those before the point from 10 s on."""
    return f"{value:.0f} ms" if abs(value) >= 9999.5 else f"{value:.4g} ms"


def parse_seconds(text: str) -> float:
    """Seconds that `90s`, `10m` or `2h` stand for. Raises BadInput."""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,15})?)\s*([smh])", text.strip())
    if not match or float(match[1]) == 0:
        raise BadInput(
            f"{shortened(text)!r} is not a time: write a number with s, m or h, such as 10m"
        )
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]
