"""A cost of your own that adds up over the blocks of a network: energy, money, wear."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mobilenas.base.errors import BadInput
from mobilenas.base.settings import is_number
from mobilenas.space import Space


@dataclass(frozen=True)
class BlockCosts:
    """What each candidate of each block costs.

    name: QUANTITY_UNIT@DEVICE, as energy_mj@board; it stands in objectives, limits and results.
    blocks: of each searched block, in order, the cost of its candidates by their text form. fixed:
    of what all networks have, stem and head. Costs are 0 or more.
    """

    name: str
    blocks: Sequence[Mapping[str, float]]
    fixed: float = 0.0

    def column(self, space: Space) -> tuple[float, list[list[float]]]:
        """What all networks cost, and of each block its candidates, in the order of the space.

        Raises BadInput naming the block whose candidates are not those of the space.
        """
        quantity, at, device = self.name.partition("@")
        if not (quantity and at and device) or quantity.startswith("latency"):
            raise BadInput(f"cost {self.name!r}: must be QUANTITY_UNIT@DEVICE: energy_mj@board")
        if len(self.blocks) != len(space.blocks):
            raise BadInput(
                f"cost {self.name}: of {len(self.blocks)} blocks, where {space.name} has "
                f"{len(space.blocks)}"
            )
        found = []
        for number, (block, costs) in enumerate(zip(space.blocks, self.blocks, strict=True), 1):
            names = [str(candidate) for candidate in block.candidates]
            for name in names:
                if name not in costs:
                    raise BadInput(f"cost {self.name}: block {number} ({block.name}) lacks {name}")
            found.append([self._checked(costs[name], f"block {number}, {name}") for name in names])
        return self._checked(self.fixed, "fixed"), found

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        blocks = [{name: float(cost) for name, cost in costs.items()} for costs in self.blocks]
        return {"name": self.name, "blocks": blocks, "fixed": float(self.fixed)}

    def _checked(self, value: float, where: str) -> float:
        try:
            number = float(value)  # numpy's numbers are welcome
        except (TypeError, ValueError):
            number = -1.0
        if not is_number(number) or number < 0:
            raise BadInput(f"cost {self.name}: {where}: {value} must be a number of 0 or more")
        return number
