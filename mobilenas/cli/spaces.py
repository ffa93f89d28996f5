"""The commands `space` and `arch`. Heavy imports live inside commands."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mobilenas.base.errors import BadInput
from mobilenas.base.units import format_size
from mobilenas.cli.options import (
    Flops,
    Json,
    Latency,
    Memory,
    Params,
    Seed,
    SpaceName,
    parse_budget,
    print_json,
)

if TYPE_CHECKING:
    from mobilenas.cost.budget import Budget
    from mobilenas.space import ListedSpace

space_app = typer.Typer(no_args_is_help=True, help="What may be built: the search spaces.")
arch_app = typer.Typer(no_args_is_help=True, help="Single networks of a space.")


@space_app.command("list")
def space_list(as_json: Json = False) -> None:
    """List the shipped spaces, with the side of their images and the FLOPs of their networks.

    Example: mobilenas space list
    """
    from mobilenas.report.text import table
    from mobilenas.space import list_cell_spaces, list_spaces, load_listed_space

    spaces = [load_listed_space(name) for name in list_spaces() + list_cell_spaces()]
    if as_json:
        print_json({s.name: s.spec.description for s in spaces})
        return
    rows = []
    for space in spaces:
        facts = _facts(space)
        flops = {f"flops_{key}": format_size(value) for key, value in facts["flops"].items()}
        rows.append({"space": space.name, "px": facts["resolution"], **flops} | facts)
    titles = {"space": "space", "px": "px", "flops_minimum": "FLOPs: min"}
    titles |= {"flops_median": "median", "flops_maximum": "max", "description": "what it is"}
    print(table(rows, titles))


@space_app.command("show")
def space_show(
    space: SpaceName,
    flops: Flops = None,
    params: Params = None,
    memory: Memory = None,
    latency: Latency = None,
    as_json: Json = False,
) -> None:
    """Show the choices of a space, its size, and the range of its costs.

    With a budget also the share of the space that is within it.

    Example: mobilenas space show s1 --flops 500M
    """
    from mobilenas.report.cells import describe_cell_space
    from mobilenas.report.edge_cells import describe_edge_cell_space
    from mobilenas.report.text import describe_space
    from mobilenas.space import CellSpace, Space, load_listed_space

    loaded = load_listed_space(space)
    facts = _facts(loaded, parse_budget(flops, params, memory, latency))
    if as_json:
        print_json(facts)
    elif isinstance(loaded, Space):
        print(describe_space(facts))
    elif isinstance(loaded, CellSpace):
        print(describe_cell_space(facts))
    else:
        print(describe_edge_cell_space(facts))


def _facts(space: "ListedSpace", budget: "Budget | None" = None) -> dict[str, Any]:
    """What there is to say of a space, and of a budget in it. Raises BadInput."""
    from mobilenas.cost.budget import Budget
    from mobilenas.report.cells import cell_space_facts
    from mobilenas.report.edge_cells import edge_cell_space_facts
    from mobilenas.report.text import space_facts
    from mobilenas.space import CellSpace, Space

    if isinstance(space, Space):
        return space_facts(*(budget or Budget()).look_up(space))
    if budget:
        raise BadInput(f"space {space.name}: budgets are for spaces of blocks, this one has cells")
    if isinstance(space, CellSpace):
        return cell_space_facts(space)
    return edge_cell_space_facts(space)


@arch_app.command("sample")
def arch_sample(
    space: SpaceName,
    n: Annotated[int, typer.Option("-n", min=1, max=10**6, help="How many.")] = 1,
    over_costs: Annotated[
        bool,
        typer.Option("--spread", help="Over all costs, as latency tables are fitted to."),
    ] = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Draw archs at random, one text form a line.

    Candidates drawn for each block by itself make archs of about the same cost; --spread draws
    archs over the whole range of FLOPs.

    Example: mobilenas arch sample s1 -n 5
    """
    import numpy as np

    from mobilenas.latency.networks import spread
    from mobilenas.space import Space, load_listed_space

    rng = np.random.default_rng(seed)
    loaded = load_listed_space(space)
    if not over_costs:
        archs = [str(loaded.sample(rng)) for _ in range(n)]
    elif isinstance(loaded, Space):
        archs = [str(loaded.decode(genes)) for genes in spread(loaded, n, rng)]
    else:
        raise BadInput(f"--spread: {loaded.name} has cells; it must be a space of blocks")
    if as_json:
        print_json({"space": loaded.name, "archs": archs})
    else:
        print("\n".join(archs))


@arch_app.command("cost")
def arch_cost(
    space: SpaceName,
    arch: Annotated[
        str, typer.Argument(metavar="ARCH", help="Text form, as `arch sample` prints it.")
    ],
    as_json: Json = False,
) -> None:
    """What one arch costs: FLOPs (multiply-adds), parameters, peak activation memory, latency.

    The latency is that of every known table that covers the space. Of cells only FLOPs and
    parameters are known. In a space of linear paths the costs are those of the folded network, and
    beside them stands what it costs with all paths, as it is trained.

    Example: mobilenas arch cost macro id_e3k3_e6k5_id_e3k3_e3k3_e6k5_id
    """
    from mobilenas.cost import CostModel
    from mobilenas.cost.budget import known_tables
    from mobilenas.cost.model import flops_and_params
    from mobilenas.cost.titles import cost_title, format_cost, latency_cost
    from mobilenas.space import Space, load_listed_space

    loaded = load_listed_space(space)
    costs: dict[str, float]
    all_paths: dict[str, float] = {}
    if not isinstance(loaded, Space):
        counted = flops_and_params(loaded, [loaded.parse(arch)])
        tables, costs = [], {cost: values.item() for cost, values in counted.items()}
    else:
        tables = known_tables(loaded)
        costs = CostModel(loaded, tables).of(loaded.parse(arch))
        if loaded.spec.path_activation == "after_sum":
            all_paths = CostModel(loaded, folded=False).of(loaded.parse(arch))
    if as_json:
        latency = {table.name: costs.pop(latency_cost(table.name)) for table in tables}
        facts = {**costs, "latency_ms": latency}
        print_json(facts | ({"all_paths": all_paths} if all_paths else {}))
        return
    lines = {cost_title(cost): format_cost(cost, value) for cost, value in costs.items()}
    lines |= {f"{cost}, all paths": format_cost(cost, value) for cost, value in all_paths.items()}
    width = max(map(len, lines))
    for title, value in lines.items():
        print(f"{title:{width}} {value}")
