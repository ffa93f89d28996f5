"""The commands `space` and `arch`. Heavy imports live inside commands."""

from typing import Annotated, Any

import typer

from mobilenas.cli.options import Json, Seed, SpaceName, parse_limits, print_json

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
    flops: Annotated[
        str | None, typer.Option(help="Give the share of the space within this budget: 500M.")
    ] = None,
    params: Annotated[str | None, typer.Option(help="The same for parameters: 5M.")] = None,
    as_json: Json = False,
) -> None:
    """Show the choices of a space, its size, and the range of its costs.

    Example: mobilenas space show s1 --flops 500M
    """
    from mobilenas.report.text import describe_space, space_facts
    from mobilenas.space import load_space

    facts = space_facts(load_space(space), parse_limits(flops, params))
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
    """FLOPs (multiply-adds) and parameters of one arch.

    Example: mobilenas arch cost macro id_e3k3_e6k5_id_e3k3_e3k3_e6k5_id
    """
    from mobilenas.cost import CostModel
    from mobilenas.space import load_space
    from mobilenas.units import format_size

    loaded = load_space(space)
    cost, parsed = CostModel(loaded), loaded.parse(arch)
    values: dict[str, Any] = {"flops": cost.flops(parsed), "params": cost.params(parsed)}
    if as_json:
        print_json(values | {"latency_ms": {}})
        return
    for name, value in values.items():
        print(f"{name:7} {format_size(value)}")
