"""Configs of mmdet that are data, in which nothing runs: config.py of run folders, YAML, JSON.

mmengine executes a Python config, constructs any Python object that a YAML file names, and takes a
`type` with dots for something to import and call. That is for files that the user names as code.
"""

import ast
from os.path import realpath
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mobilenas.base.errors import BadInput, one_line
from mobilenas.base.files import read_json
from mobilenas.base.plain import read_bytes, read_yaml

DATA = (".json", ".yaml", ".yml")  # suffixes of configs that are data
_LARGEST = 1 << 22  # bytes
_SCOPES = ("mmdet", "mmengine", "mmcv", "mobilenas")
_BUILT = ("type", "constructor")  # keys whose value is looked up among classes


def read_stored(path: Path) -> Config:
    """A file of lines `key = value`, as a run folder has it. Raises BadInput for any other."""
    try:
        tree = ast.parse(read_bytes(path, _LARGEST))
        values = {}
        for line in tree.body:
            if not isinstance(line, ast.Assign) or not isinstance(line.targets[0], ast.Name):
                raise BadInput(f"{path} line {line.lineno}: must be key = value, and runs nothing")
            values[line.targets[0].id] = ast.literal_eval(_Literals().visit(line.value))
    except BadInput:
        raise
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        reason = one_line(error)
        raise BadInput(f"{path}: must be lines key = value of plain data: {reason}") from None
    return _checked(values, path)


def read_data_config(path: Path) -> Config:
    """A YAML or JSON file, with the others of these kinds that its `_base_` names.

    Raises BadInput naming the file.
    """
    return _checked(_merged(path, ()), path)


class _Literals(ast.NodeTransformer):
    """Writes dict(a=1), as mmengine does, as {"a": 1}."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        named = all(keyword.arg is not None for keyword in node.keywords)
        if not isinstance(node.func, ast.Name) or node.func.id != "dict" or node.args or not named:
            return node
        keys: list[ast.expr | None] = [ast.Constant(keyword.arg) for keyword in node.keywords]
        return ast.Dict(keys, [keyword.value for keyword in node.keywords])


def _merged(path: Path, within: tuple[str, ...]) -> dict[str, Any]:
    if realpath(path) in within:
        raise BadInput(f"config {path}: _base_ goes in a circle")
    data = read_json(path) if path.suffix == ".json" else read_yaml(path)
    if not isinstance(data, dict):
        raise BadInput(f"config {path} must hold a mapping of keys to values")
    bases = data.pop("_base_", [])
    merged: dict[str, Any] = {}
    for base in [bases] if isinstance(bases, str) else bases:
        if not isinstance(base, str) or Path(base).suffix not in DATA:
            raise BadInput(
                f"config {path}: _base_ {base}: must be a {', '.join(DATA)} file; a config that "
                "runs Python must itself be a .py file"
            )
        below = _merged(path.parent / base, (*within, realpath(path)))
        merged = Config._merge_a_into_b(below, merged)
    return dict(Config._merge_a_into_b(data, merged))


def _checked(values: dict[str, Any], path: Path) -> Config:
    _check_names(values, path)
    try:
        return Config(values)
    except Exception as error:  # keys that mmengine keeps for itself, and the like
        raise BadInput(f"config {path}: {one_line(error)}") from None


def _check_names(value: Any, path: Path) -> None:
    if isinstance(value, dict):
        for key in _BUILT:
            name = value.get(key)
            scope, dot, rest = name.partition(".") if isinstance(name, str) else ("", "", "")
            if dot and (scope not in _SCOPES or "." in rest):
                raise BadInput(
                    f"config {path}: {key}: {name}: must be a name that mmdet knows; a .py config "
                    "can import others"
                )
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            _check_names(part, path)
