"""The names of costs, and how their values are written.

flops, params, memory (bytes), `latency_ms@TABLE` for each latency table, and costs of a user's own,
`QUANTITY_UNIT@DEVICE`.
"""

from collections.abc import Mapping

from mobilenas.base.units import format_ms, format_size

COUNTED = ("flops", "params", "memory")
_LATENCY = "latency_ms@"


def latency_cost(table: str) -> str:
    """The cost that a latency table of this name gives."""
    return _LATENCY + table


def is_latency(cost: str) -> bool:
    """Whether a cost is the latency of some table."""
    return cost.startswith(_LATENCY)


def is_cost(name: str) -> bool:
    """Whether a key of a row names a cost."""
    return name in COUNTED or "@" in name


def cost_title(cost: str) -> str:
    """A cost as people write it: `latency@TABLE`, the others as they are."""
    return cost.replace(_LATENCY, "latency@", 1)


def format_cost(cost: str, value: float) -> str:
    """A value with its unit: 388.1M (FLOPs, params), 1.204MB (memory), 12.34 ms; of a user's own
    costs the number alone.
    """
    if is_latency(cost):
        return format_ms(value)
    if cost not in COUNTED:
        return f"{value:.4g}"
    return format_size(value) + ("B" if cost == "memory" else "")


def format_limits(limits: Mapping[str, float]) -> str:
    """Limits in words: `flops <= 500M and latency@TABLE <= 20 ms`."""
    parts = (f"{cost_title(cost)} <= {format_cost(cost, x)}" for cost, x in limits.items())
    return " and ".join(parts)
