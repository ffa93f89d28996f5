"""Intervals of shares that were counted."""

import math

_Z = 1.959964  # of the normal distribution, two-sided 95 %


def wilson(right: int, n: int) -> tuple[float, float]:
    """The 95 % score interval (0..1) of a share: Wilson 1927, J. Am. Stat. Assoc. 22, p. 209."""
    share, weight = right / n, _Z**2 / n
    centre = share + weight / 2
    spread = _Z * math.sqrt(share * (1 - share) / n + weight / (4 * n))
    # Exact at the ends, where rounding would give a little less than 0 or more than 1.
    return max(0.0, (centre - spread) / (1 + weight)), min(1.0, (centre + spread) / (1 + weight))
