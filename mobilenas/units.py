"""Sizes as people write them: 500M, 0.5G, 12k."""

import re
from collections.abc import Mapping

from mobilenas.errors import BadInput

_FACTORS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}


def parse_size(text: str) -> int:
    """The number that `500M`, `0.5G`, `12k` or `300000` stands for. Raises BadInput."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMG]?)", text.strip())
    if not match:
        raise BadInput(f"{text!r} is not a size: write a number with k, M or G, such as 500M")
    return round(float(match[1]) * _FACTORS[match[2]])


def format_limits(limits: Mapping[str, float]) -> str:
    """Limits in words: `flops <= 500M and params <= 5M`."""
    return " and ".join(f"{name} <= {format_size(limit)}" for name, limit in limits.items())


def format_size(value: float) -> str:
    """A size with three or four digits and its unit: 388.1M."""
    for unit in ("G", "M", "k"):
        if abs(value) >= _FACTORS[unit] * 0.9995:
            return f"{value / _FACTORS[unit]:.4g}{unit}"
    return f"{value:.4g}"
