"""What the commands share: options, and how a result is printed."""

import json
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
SpaceName = Annotated[
    str,
    typer.Argument(
        metavar="SPACE",
        help="A shipped space or a YAML file, with overrides: s1:width=0.25,resolution=32.",
    ),
]


def print_json(value: object) -> None:
    """The one JSON object of a command, on stdout."""
    print(json.dumps(value))


def is_given(context: typer.Context, name: str) -> bool:
    """Whether the user gave the option, rather than its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def parse_limits(flops: str | None, params: str | None) -> dict[str, int]:
    """The limits that were given, by cost name."""
    from mobilenas.units import parse_size

    given = {"flops": flops, "params": params}
    return {name: parse_size(text) for name, text in given.items() if text is not None}
