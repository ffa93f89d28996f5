"""What archs of a search by gradient may cost: a user's budget, and the latencies it names."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from os.path import realpath
from pathlib import Path

from mobilenas.base.errors import BadInput
from mobilenas.cost.budget import Budget
from mobilenas.cost.cell_latency import CellLatencies
from mobilenas.cost.edge_model import EdgeCellCosts, costs_of
from mobilenas.cost.latency import LatencyTable, find_table
from mobilenas.cost.model import CostModel
from mobilenas.evaluate.nb201 import read_nb201
from mobilenas.runs import RunFolder
from mobilenas.runs.folder import TABLE
from mobilenas.search import check_feasible
from mobilenas.space import EdgeCellSpace, NetworkSpace, Space, network_space_from_dict
from mobilenas.stages.search_run import digest, sha256_of
from mobilenas.strategies.searchable import Searchable

Table = LatencyTable | CellLatencies
log = logging.getLogger(__name__)


def limited(space: NetworkSpace, budget: Budget) -> tuple[Searchable, dict[str, float]]:
    """The space with its costs, and the limits of a budget. Latencies of cells are those that
    NAS-Bench-201 lists. Raises BadInput.
    """
    if budget.own:
        names = ", ".join(costs.name for costs in budget.own)
        raise BadInput(f"{names}: costs of your own are for evolve; a search by gradient has none")
    if isinstance(space, Space):
        cost_model, limits = budget.look_up(space)
        return Searchable(cost_model), limits
    assert isinstance(space, EdgeCellSpace)
    devices = [latency.device for latency in budget.latencies]
    listed = read_nb201(budget.data_root, space) if devices else None
    costs = EdgeCellCosts(space, [listed.latency(device) for device in devices] if listed else [])
    for cost in budget.limits:
        costs.check(cost)
    pairs = zip(costs.tables, budget.latencies, strict=True)
    latencies = {table.cost: asked.ms for table, asked in pairs if asked.ms is not None}
    return Searchable(costs), {**budget.limits, **latencies}


def check_limits(searchable: Searchable, limits: Mapping[str, float]) -> None:
    """Raises InfeasibleBudget where no arch meets all limits, with the feasible range of each."""
    searchable.check_limits(limits)
    check_feasible(searchable.costs, limits)


def say_fits(tables: Sequence[Table]) -> None:
    """Say how well sums of parts, which a search expects, hold for the latencies of cells."""
    for table in tables:
        if isinstance(table, CellLatencies):
            log.info(
                "latency@%s: a sum over the edges explains %.1f %% of the variance and is within "
                "10 %% for %.0f %% of the cells; the cell must meet the limit by its listed "
                "latency",
                table.name,
                100 * table.fit.r2,
                100 * table.fit.within_10_percent,
            )


def places(budget: Budget, tables: Sequence[Table]) -> dict[str, str]:
    """By role of a run's parents what finds each table again."""
    pairs = zip(budget.latencies, tables, strict=True)
    return {
        f"{TABLE}{table.name}": latency.place(table)
        if isinstance(table, LatencyTable)
        else realpath(str(budget.data_root))
        for latency, table in pairs
    }


def with_known_root(budget: Budget, folder: RunFolder) -> Budget:
    """A budget that finds the latencies of cells where a run has them, unless it says where."""
    roles = [role for role in folder.parents if role.startswith(TABLE)]
    space = network_space_from_dict(folder.settings["space"])
    if budget.data_root or not roles or not isinstance(space, EdgeCellSpace):
        return budget
    return replace(budget, data_root=folder.parent(roles[0], "--data-root"))


def moved_tables(folder: RunFolder, budget: Budget) -> dict[str, str]:
    """By role where the tables of a run are now that a budget names by their paths."""
    searchable, _ = limited(network_space_from_dict(folder.settings["space"]), budget)
    named = places(budget, searchable.costs.tables)
    paths = {role: place for role, place in named.items() if Path(place).is_absolute()}
    return {role: place for role, place in paths.items() if role in folder.relative}


def digests(tables: Sequence[Table]) -> dict[str, str]:
    """SHA-256 of the content of each table, by name."""
    return {
        table.name: digest(table)
        if isinstance(table, LatencyTable)
        else sha256_of({"genes": table.genes.tolist(), "ms": table.ms.tolist()})
        for table in tables
    }


def stored_costs(
    folder: RunFolder, space: NetworkSpace, known: Mapping[str, str]
) -> CostModel | EdgeCellCosts:
    """The costs of a space with the tables that a run was started with. known: their digests.
    Raises BadInput where one is gone or another.
    """
    found = {
        role: folder.find(role, "--latency") if role in folder.relative else place
        for role, place in folder.parents.items()
        if role.startswith(TABLE)
    }
    tables: list[Table]
    if isinstance(space, Space):
        tables = [find_table(place, space) for place in found.values()]
    else:
        tables = [
            read_nb201(Path(place), space).latency(role.removeprefix(TABLE))
            for role, place in found.items()
        ]
    for name, digest_now in digests(tables).items():
        if digest_now != known.get(name):
            raise BadInput(
                f"latency table {name} is not the one that {folder.path} was started with"
            )
    return costs_of(space, tables)
