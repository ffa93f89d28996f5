"""Files that a kill cannot tear: written under a temporary name, synced, renamed."""

import glob
import json
import os
import re
import secrets
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from operator import methodcaller
from pathlib import Path
from typing import Any, BinaryIO

from mobilenas.base.errors import BadInput, shortened
from mobilenas.base.plain import parse_json, read_bytes
from mobilenas.base.settings import validated

_LONGEST_NAME = 200  # what is added to it, before and behind, has room
_HEX = 8  # digits by which temporary names differ
_LEFT_SECONDS = 24 * 3600


def write_atomic(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in place in one step."""
    temporary = _temporary(path)
    try:
        _write_synced(temporary, write)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write files that belong together, the one that readers rely on last.

    All are written under temporary names first, so a full disk (OSError) leaves every old file as
    it was. The last one is taken away while the others are put in place: after a kill it may be
    missing, but never stands beside files that it does not belong to.
    """
    temporaries = {path: _temporary(path) for path in contents}
    try:
        for path, content in contents.items():
            _write_synced(temporaries[path], methodcaller("write", content))
        list(contents)[-1].unlink(missing_ok=True)
        for path, temporary in temporaries.items():
            temporary.replace(path)
    finally:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)


def check_replaceable(path: Path) -> None:
    """Raise BadInput where `path` is there and no regular file: a file that is renamed to it would
    take away a device such as /dev/null, a pipe or a socket.
    """
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "no regular file"
        raise BadInput(f"cannot write {path}: it is {what}")


def check_writable(path: Path) -> None:
    """Raise BadInput where a file cannot be written, its folder included; for what takes a while
    before it is.
    """
    if not path.parent.is_dir():
        raise BadInput(f"cannot write {path}: {path.parent} is not a folder")
    check_replaceable(path)
    if not os.access(path.parent, os.W_OK):
        raise BadInput(f"cannot write {path}: {path.parent} is read-only")


def file_name(text: str) -> str:
    """A text, such as an arch, as the name of a file or folder, which has 255 bytes at most: of a
    long one the start, and a checksum. What a shell would take for its own is `-`.
    """
    name = re.sub(r"""[\s|()\[\]{}<>,;:'"&$*?!`\\/]+""", "-", text).strip("-")
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:_LONGEST_NAME]}-{zlib.crc32(text.encode()):08x}"


def user_path(text: str) -> Path:
    """A path as a user writes it, ~ and ~name being home folders. Raises BadInput where nobody has
    that name, and for one that is not UTF-8, which no file could say.
    """
    try:
        text.encode()
        return Path(text).expanduser()
    except UnicodeEncodeError:
        raise BadInput(f"{shortened(text)!a}: the path is not UTF-8") from None
    except RuntimeError:
        raise BadInput(f"{shortened(text)}: nobody has such a home folder") from None


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_atomic(path, lambda file: file.write(text.encode()))


def write_json(path: Path, value: object) -> None:
    """Write a value as indented JSON atomically; NaN and infinity are refused (ValueError). Raises
    BadInput for a text that is not UTF-8, such as some paths, which could not be read again.
    """
    text = json.dumps(value, indent=1, allow_nan=False)
    if "\\ud" in text:  # half a character, or an emoji
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            near = ascii(error.object[max(0, error.start - 20) : error.end + 20])
            raise BadInput(f"cannot write {path}: {near} is not UTF-8") from None
    write_text(path, text + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises BadInput naming it, as `base.plain` does."""
    return parse_json(read_bytes(path), path)


def read_jsonl(path: Path, shape: Any = dict[str, Any]) -> list[Any]:
    """Rows of a JSON-lines file, each of this shape, as `validated` takes it; a last line torn by a
    kill is left out. Missing file: no rows.

    Raises BadInput naming the file and line for any other damage, and for a row of another shape.
    """
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(read_bytes(path).split(b"\n")[:-1], start=1):
        where = f"{path} line {number}"
        rows.append(validated(shape, parse_json(line, where), where, "the row"))
    return rows


def write_jsonl(path: Path, rows: Iterable[object]) -> None:
    """Write the rows of a JSON-lines file atomically."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def append_jsonl(path: Path, rows: Iterable[object]) -> None:
    """Add rows to a JSON-lines file and sync it; a last line torn by a kill goes first."""
    with path.open("a+b") as file:  # which writes at the end, wherever it has read
        file.seek(max(file.tell() - 1, 0))
        if file.read() not in (b"", b"\n"):
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
        file.writelines(json.dumps(row).encode() + b"\n" for row in rows)
        file.flush()
        os.fsync(file.fileno())


def remove_torn(folder: Path) -> None:
    """Remove what a killed writer has half written in a folder and those in it, where it was the
    only writer.
    """
    for level in ("", "*/"):
        for left in folder.glob(f"{level}.*.{'[0-9a-f]' * _HEX}.tmp"):
            left.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    """A name beside `path` that no other writer has. What a killed writer has left under such a
    name goes after a day: until then it may be of one that is at work.
    """
    check_replaceable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with suppress(FileNotFoundError):  # another writer took it away
            if left.stat().st_mtime < time.time() - _LEFT_SECONDS:
                left.unlink()
    return path.with_name(f".{path.name}.{secrets.token_hex(_HEX // 2)}.tmp")


def _write_synced(path: Path, write: Callable[[BinaryIO], object]) -> None:
    with path.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
