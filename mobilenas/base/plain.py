"""Text and plain data, JSON or YAML, of anyone: it is read, or refused in one line.

Neither reader runs code. Both of Python's raise more than their own errors, take a text of any
length and go as deep as it does; what depends on them would then fail at any place.
"""

import json
import re
from collections.abc import Iterable
from itertools import chain
from math import inf
from pathlib import Path
from typing import Any

import yaml

from mobilenas.base.errors import BadInput, one_line

_LARGEST_JSON = 2 << 30  # bytes; annotations of COCO are of half a GB
_LARGEST_YAML = 1 << 18  # it is read a hundred times more slowly, and written by hand
_DEEPEST = 50  # levels
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_bytes(path: Path, largest: int = _LARGEST_JSON) -> bytes:
    """The content of a file.

    Raises BadInput naming a file that is missing, none (a device or a pipe may have no end), or of
    more than `largest` bytes.
    """
    if not path.is_file():
        raise BadInput(f"{path} is not a file" if path.exists() else f"no such file: {path}")
    size = path.stat().st_size
    if size > largest:
        raise BadInput(f"{path} has {size:,} bytes; {largest:,} are read at most")
    return path.read_bytes()


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, with a byte order mark or without. Raises BadInput."""
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is no text file: {error}") from None


def parse_json(content: bytes, where: object) -> Any:
    """The value of a JSON text; a byte order mark, as editors of Windows write it, may go before
    it. Raises BadInput, `where is not JSON: why`.
    """
    try:
        text = content.decode("utf-8-sig")
        value = json.loads(text)
        if _SURROGATE.search(text):  # half a character, which cannot be written
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where} is not JSON: {_reason(error)}") from None
    _check_depth(value, where)
    return value


def parse_yaml(text: str, where: object) -> Any:
    """The value of a YAML text, in which a key may stand once, and aliases not for more than a
    text without them can have. Raises BadInput, `where is not YAML: why`.
    """
    if len(text) > _LARGEST_YAML:
        raise BadInput(f"{where} has {len(text):,} characters; {_LARGEST_YAML:,} are read at most")
    try:
        value = yaml.load(text, _Loader)
    except Exception as error:  # its constructors raise nearly anything for `!!int x` and the like
        raise BadInput(f"{where} is not YAML: {_reason(error)}") from None
    _check_depth(value, where)
    return value


def read_yaml(path: Path) -> Any:
    """The value in a YAML file. Raises BadInput naming it."""
    try:
        return parse_yaml(read_bytes(path, _LARGEST_YAML).decode("utf-8-sig"), path)
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not YAML: {error}") from None


class _Loader(yaml.SafeLoader):
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        if self.depth > 2 * _DEEPEST:  # at once, as yaml takes seconds for thousands of brackets
            raise yaml.composer.ComposerError(None, None, "it is nested too deeply")
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None and _size(node, {}) > _LARGEST_YAML:
            raise yaml.composer.ComposerError(
                None, None, "its aliases stand for too much", node.start_mark
            )
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        known = set()
        for key, _ in node.value:
            name = key.tag, str(key.value)
            if name in known:
                raise yaml.composer.ComposerError(
                    None, None, f"the key {key.value} stands twice", key.start_mark
                )
            known.add(name)
        return node


def _size(node: yaml.Node, known: dict[int, float]) -> float:
    """How many nodes there are where each alias is written out; infinite where one is in itself."""
    if id(node) not in known:
        known[id(node)] = inf
        parts = node.value if isinstance(node, yaml.CollectionNode) else ()
        if isinstance(node, yaml.MappingNode):
            parts = chain.from_iterable(parts)
        known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(node)]


def _check_depth(value: Any, where: object) -> None:
    """What handles plain data goes down into it by recursion, which has an end."""
    level = [value]
    for _ in range(_DEEPEST):
        below = chain.from_iterable(map(_parts, level))
        level = [part for part in below if isinstance(part, dict | list)]
        if not level:
            return
    raise BadInput(f"{where}: has more than {_DEEPEST} levels of lists and mappings")


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _reason(error: Exception) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else one_line(error)
