"""The data folders `configs/` and `latency_tables/`, in a checkout and in a wheel."""

import difflib
from pathlib import Path
from typing import Any

from mobilenas.base.errors import BadInput, shortened
from mobilenas.base.plain import parse_yaml, read_yaml

_PACKAGE = Path(__file__).parents[1]


def resource(name: str) -> Path:
    """The folder `name` inside an installed wheel, else at the top of the checkout."""
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name


def shipped(kind: str) -> list[str]:
    """Names of the shipped presets of a kind: `spaces`, `supernet`."""
    return sorted(path.stem for path in (resource("configs") / kind).glob("*.yaml"))


def read_preset(reference: str, *kinds: str) -> dict[str, Any]:
    """The mapping in a shipped preset of one of some kinds or, failing that, in the YAML file of
    that path.

    Raises BadInput naming the file, or the nearest preset and all that there are.
    """
    presets = (resource("configs") / kind / f"{reference}.yaml" for kind in kinds)
    path = next((preset for preset in presets if preset.is_file()), Path(reference))
    if not path.is_file():
        known = [name for kind in kinds for name in shipped(kind)]
        near = difflib.get_close_matches(reference, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        what = f"{reference!r} is neither a YAML file nor one of"
        if Path(reference).suffix in (".yaml", ".yml"):
            what = f"{reference}: no such file; there are also"
        raise BadInput(f"{what} {', '.join(known)}{hint}")
    data = read_yaml(path) or {}
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise BadInput(f"{path} must hold a mapping of keys to values, the keys words")
    return data


def read_value(item: str) -> tuple[str, Any]:
    """Key and value of an override `key=value`, the value as YAML has it. Raises BadInput."""
    key, equals, value = item.partition("=")
    if not equals:
        raise BadInput(f"override {item!r} must be key=value")
    return key, parse_yaml(value, f"override {shortened(item)!r}")
