"""What an arch that is drawn from probabilities costs on average, and how it enters a loss."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mobilenas.base.errors import BadInput
from mobilenas.cost.edge_model import Costs

_ONE = 1 + 1e-9  # the least cost whose logarithm is above 0


class ExpectedCost:
    """The expected costs of the archs of some probabilities, beside the limits that a user set.

    With limits {cost: largest value} and E their expected values, `loss` is

    add     the loss, plus weight times the sum of max(0, E / limit - 1)
    power   weight times the loss, times each (log E / log limit) to the power (ProxylessNAS, Cai et
            al. 2019, as released)

    asked: all limits. spread: the probabilities of the choices that costs have, from those that
    are given.

    Peaks, as memory is, are no sums over blocks: they forbid candidates when an arch is derived,
    and have no part here. Raises BadInput for a limit of at most 1 by `power`.
    """

    def __init__(
        self,
        costs: Costs,
        limits: Mapping[str, float],
        form: str = "add",
        weight: float = 0.1,
        power: float = 0.3,
        spread: Callable[[Sequence[Tensor]], Sequence[Tensor]] = list,
    ) -> None:
        self.spread, self.asked = spread, limits
        self.form, self.weight, self.power = form, weight, power
        low = min(limits, key=limits.__getitem__, default=None) if form == "power" else None
        if low is not None and limits[low] <= 1:
            raise BadInput(
                f"cost_form power has logarithms of costs, and the limit of {low} is "
                f"{limits[low]:g}; it must be above 1, or cost_form=add"
            )
        self._costs: dict[str, tuple[float, list[Tensor]]] = {}
        for cost in costs.costs:
            fixed, blocks, is_peak = costs.parts(cost)
            if not is_peak:
                self._costs[cost] = fixed, [torch.from_numpy(b).double() for b in blocks]
        self.limits = {cost: limit for cost, limit in limits.items() if cost in self._costs}

    def of(self, cost: str, probabilities: Sequence[Tensor]) -> Tensor:
        """The expected cost, in float64. probabilities: of each choice, (candidates,)."""
        fixed, blocks = self._costs[cost]
        terms = [
            (p.double() * b).sum() for p, b in zip(self.spread(probabilities), blocks, strict=True)
        ]
        return fixed + torch.stack(terms).sum()

    def excess(self, probabilities: Sequence[Tensor]) -> Tensor:
        """By how much the expected costs pass the limits, relative to them, added up."""
        passed = [
            (self.of(cost, probabilities) / limit - 1).clamp_min(0)
            for cost, limit in self.limits.items()
        ]
        return torch.stack(passed).sum() if passed else torch.zeros((), dtype=torch.float64)

    def limited(self) -> list[list[NDArray[np.float64]]]:
        """Of each cost that has a limit what candidates cost, (candidates,) a choice."""
        return [[block.numpy() for block in self._costs[cost][1]] for cost in self.limits]

    def loss(self, loss: Tensor, probabilities: Sequence[Tensor]) -> Tensor:
        """The loss with the expected costs; as it is where there is no limit."""
        if not self.limits or not self.weight:
            return loss
        if self.form == "add":
            return loss + (self.weight * self.excess(probabilities)).to(loss)
        factor = torch.ones((), dtype=torch.float64)
        for cost, limit in self.limits.items():
            # Its logarithm is below 0, and has no power, for what costs less than one.
            expected = self.of(cost, probabilities).clamp_min(_ONE)
            factor = factor * (expected.log() / math.log(limit)) ** self.power
        return self.weight * loss * factor.to(loss)
