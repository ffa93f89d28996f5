"""Finding and loading spaces: shipped ones by name, others by path, both with inline overrides."""

import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mobilenas.errors import BadInput
from mobilenas.resources import resource
from mobilenas.space.space import Space
from mobilenas.space.spec import SpaceSpec

_COMMA = re.compile(r",(?![^\[]*\])")  # one that is not inside a list


def list_spaces() -> list[str]:
    """Names of the shipped spaces."""
    return sorted(path.stem for path in (resource("configs") / "spaces").glob("*.yaml"))


def load_space(reference: str) -> Space:
    """The space of a reference: a shipped name or a YAML path, then optional overrides.

    `s1:width=0.25,candidates.max_paths=2` is s1 with two keys of its YAML replaced.
    Raises BadInput naming the space, file or key.
    """
    base, _, overrides = reference.partition(":")
    data = _read(base)
    try:
        for item in filter(None, _COMMA.split(overrides)):
            _override(data, item)
        if overrides:
            data["name"] = f"{data['name']}:{overrides}"
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


def _read(base: str) -> dict[str, Any]:
    shipped = resource("configs") / "spaces" / f"{base}.yaml"
    path = shipped if shipped.is_file() else Path(base)
    if not path.is_file():
        raise BadInput(
            f"no space {base!r}: it is neither a YAML file nor one of {', '.join(list_spaces())}"
        )
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise BadInput(f"{path} must hold a mapping with the keys of a space")
    return data


def _override(data: dict[str, Any], item: str) -> None:
    key, equals, value = item.partition("=")
    if not equals:
        raise BadInput(f"override {item!r} must be key=value")
    *parents, last = key.split(".")
    for parent in parents:
        data = data.get(parent)  # type: ignore[assignment]
        if not isinstance(data, dict):
            raise BadInput(f"override {key!r}: {parent!r} is not a section of this space")
    try:
        data[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise BadInput(f"override {key!r}: {value!r} is not a YAML value") from None
