"""Budgets as a user gives them, before the devices are looked up."""

from dataclasses import dataclass, field
from os.path import realpath
from pathlib import Path

from mobilenas.base.errors import BadInput, shortened
from mobilenas.base.files import user_path
from mobilenas.base.units import parse_duration
from mobilenas.cost.latency import LatencyTable, find_table, readable_tables
from mobilenas.cost.model import CostModel
from mobilenas.cost.own import BlockCosts
from mobilenas.cost.titles import latency_cost
from mobilenas.space import Space


@dataclass(frozen=True)
class LatencyLimit:
    """`20ms@DEVICE`, or `@DEVICE` to have the latency without a limit (ms None).

    device: what `find_table` takes, the name of a table or device or the path of a JSON file.
    """

    device: str
    ms: float | None = None

    @classmethod
    def parse(cls, text: str) -> "LatencyLimit":
        """Read the text form. Raises BadInput that says what it looks like."""
        limit, at, device = text.partition("@")
        if not (at and device.strip()):
            raise BadInput(
                f"latency {shortened(text)!r}: write 20ms@DEVICE, or @DEVICE for no limit"
            )
        return cls(device.strip(), parse_duration(limit) if limit.strip() else None)

    def place(self, table: LatencyTable) -> str:
        """What finds the table again, whatever other tables there will be by then."""
        is_file = self.device.endswith(".json")
        return realpath(user_path(self.device)) if is_file else table.name


@dataclass(frozen=True)
class Budget:
    """limits: {cost: largest value} of all costs but latency, whose devices are in `latencies`:
    `flops`, `params`, `memory` (bytes) and those of `own`.
    own: costs of one's own, known beside the others. data_root: folder of the benchmarks' files,
    which list the latencies of cells.
    """

    limits: dict[str, float] = field(default_factory=dict)
    latencies: tuple[LatencyLimit, ...] = ()
    own: tuple[BlockCosts, ...] = ()
    data_root: Path | None = None

    def __bool__(self) -> bool:
        return bool(self.limits or self.latencies or self.own)

    def look_up(self, space: Space) -> tuple[CostModel, dict[str, float]]:
        """The cost model with a table for each of `latencies`, in order, and all limits.

        Raises BadInput for an unknown device, costs of another space, or one given twice.
        """
        tables = [find_table(x.device, space) for x in self.latencies]
        cost_model = CostModel(space, tables, self.own)
        limits = {
            latency_cost(table.name): latency.ms
            for table, latency in zip(cost_model.tables, self.latencies, strict=True)
            if latency.ms is not None
        }
        return cost_model, {**self.limits, **limits}


def known_tables(space: Space) -> list[LatencyTable]:
    """Every known table that covers a space at its resolution; one by which a network would take no
    time is left out, and logged.
    """
    covering = (t for t in readable_tables() if t.is_of_size(space) and t.covers(space))
    return [table for table in covering if table.fits(space)]
