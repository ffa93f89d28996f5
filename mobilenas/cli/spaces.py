"""The commands `space` and `arch`. Heavy imports live inside commands."""

from typing import Annotated

import typer

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

space_app = typer.Typer(no_args_is_help=True, help="What may be built: the search spaces.")
arch_app = typer.Typer(no_args_is_help=True, help="Single networks of a space.")


@space_app.command("list")
def space_list(as_json: Json = False) -> None:
    """List the shipped spaces.

    Example: mobilenas space list
    """
    from mobilenas.space import list_spaces, load_space

    spaces = [load_space(name) for name in list_spaces()]
    if as_json:
        print_json({s.name: s.spec.description for s in spaces})
        return
    for space in spaces:
        print(f"{space.name:8}  {space.spec.description}")


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
    from mobilenas.report.text import describe_space, space_facts
    from mobilenas.space import load_space

    budget = parse_budget(flops, params, memory, latency)
    facts = space_facts(*budget.look_up(load_space(space)))
    if as_json:
        print_json(facts)
    else:
        print(describe_space(facts))


@arch_app.command("sample")
def arch_sample(
    space: SpaceName,
    n: Annotated[int, typer.Option("-n", min=1, help="How many.")] = 1,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Draw archs at random, one text form a line.

    Example: mobilenas arch sample s1 -n 5
    """
    import numpy as np

    from mobilenas.space import load_space

    rng = np.random.default_rng(seed)
    loaded = load_space(space)
    archs = [str(loaded.sample(rng)) for _ in range(n)]
    if as_json:
        print_json({"space": loaded.name, "archs": archs})
    else:
        print("\n".join(archs))


@arch_app.command("cost")
def arch_cost(
    space: SpaceName,
    arch: Annotated[str, typer.Argument(help="Text form, as `arch sample` prints it.")],
    as_json: Json = False,
) -> None:
    """What one arch costs: FLOPs (multiply-adds), parameters, peak activation memory, latency.

    The latency is that of every known table that covers the space.

    Example: mobilenas arch cost macro id_e3k3_e6k5_id_e3k3_e3k3_e6k5_id
    """
    from mobilenas.cost import CostModel
    from mobilenas.cost.budget import known_tables
    from mobilenas.cost.names import cost_title, format_cost, latency_cost
    from mobilenas.space import load_space

    loaded = load_space(space)
    cost_model = CostModel(loaded, known_tables(loaded))
    costs = cost_model.of(loaded.parse(arch))
    if as_json:
        latency = {table.name: costs.pop(latency_cost(table.name)) for table in cost_model.tables}
        print_json({**costs, "latency_ms": latency})
        return
    width = max(len(cost_title(cost)) for cost in costs)
    for cost, value in costs.items():
        print(f"{cost_title(cost):{width}} {format_cost(cost, value)}")
