"""Finding and loading spaces: shipped ones by name, others by path, both with inline overrides."""

import re
from typing import Any

from pydantic import ValidationError

from mobilenas.errors import BadInput
from mobilenas.resources import read_preset, read_value, shipped
from mobilenas.space.space import Space
from mobilenas.space.spec import SpaceSpec

_COMMA = re.compile(r",(?![^\[]*\])")  # one that is not inside a list


def list_spaces() -> list[str]:
    """Names of the shipped spaces."""
    return shipped("spaces")


def load_space(reference: str) -> Space:
    """The space of a reference: a shipped name or a YAML path, then optional overrides.

    `s1:width=0.25,candidates.max_paths=2` is s1 with two keys of its YAML replaced.
    Raises BadInput naming the space, file or key.
    """
    base, _, overrides = reference.partition(":")
    try:
        data = read_preset("spaces", base)
        for item in filter(None, _COMMA.split(overrides)):
            _override(data, item)
        if overrides:
            data["name"] = f"{data.get('name', base)}:{overrides}"
        return space_from_dict(data)
    except BadInput as error:
        raise BadInput(f"space {reference}: {error}") from None


def space_from_dict(data: dict[str, Any]) -> Space:
    """Rebuild a space from `Space.to_dict()` or parsed YAML. Raises BadInput naming the key."""
    try:
        return Space(SpaceSpec.model_validate(data))
    except ValidationError as error:
        first = error.errors()[0]
        key = (
            ".".join(str(part) for part in first["loc"] if "ProductSpec" not in str(part))
            or "the space"
        )
        raise BadInput(f"{key}: {first['msg'].removeprefix('Value error, ')}") from None


def _override(data: dict[str, Any], item: str) -> None:
    key, value = read_value(item)
    *parents, last = key.split(".")
    for parent in parents:
        data = data.get(parent)  # type: ignore[assignment]
        if not isinstance(data, dict):
            raise BadInput(f"override {key!r}: {parent!r} is not a section of this space")
    data[last] = value
