"""Files that a kill cannot tear."""

import json
import os
import shlex
import time
from pathlib import Path
from typing import BinaryIO

import pytest

from mobilenas.base.errors import BadInput
from mobilenas.base.files import (
    append_jsonl,
    file_name,
    read_json,
    read_jsonl,
    remove_torn,
    user_path,
    write_atomic,
    write_json,
    write_text,
    write_together,
)


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "state.json"
    write_text(path, "old")

    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        file.flush()
        assert path.read_text() == "old"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, fail)
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_a_first_write_that_fails_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_the_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "new.bin"
    write_atomic(path, lambda file: (file.write(b"one"), path.exists() and file.write(b"!")))
    assert path.read_bytes() == b"one"
    write_atomic(path, lambda file: file.write(b"two"))
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]


def test_files_that_belong_together_are_replaced_together(tmp_path: Path) -> None:
    one, two = tmp_path / "deep" / "one", tmp_path / "deep" / "two"
    for contents in ({one: b"1", two: b"2"}, {one: b"longer", two: b""}):
        write_together(contents)
        assert {path: path.read_bytes() for path in (tmp_path / "deep").iterdir()} == contents


def test_a_leftover_of_a_killed_write_does_not_matter(tmp_path: Path) -> None:
    path, left = tmp_path / "a.txt", tmp_path / ".a.txt.0123abcd.tmp"
    left.write_text("a longer leftover")
    write_text(path, "short")
    assert path.read_text() == "short"
    assert set(tmp_path.iterdir()) == {path, left}  # it may be of a writer that is at work
    yesterday = time.time() - 25 * 3600
    os.utime(left, (yesterday, yesterday))
    write_text(path, "again")
    assert list(tmp_path.iterdir()) == [path]


def test_what_was_half_written_is_removed_and_nothing_else(tmp_path: Path) -> None:
    others = [tmp_path / name for name in (".a.tmp", ".a.0123abcg.tmp", "a.0123abcd.tmp", "a")]
    torn = [tmp_path / ".a.0123abcd.tmp", tmp_path / "network" / ".b.c.89abcdef.tmp"]
    for path in (*others, *torn):
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
    remove_torn(tmp_path)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == set(others)


def test_two_writers_at_once_have_a_temporary_file_each(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"

    def write_twice(file: BinaryIO) -> None:
        file.write(b"outer, half")
        file.flush()
        write_text(path, "inner")
        file.write(b" and whole")

    write_atomic(path, write_twice)
    assert path.read_text() == "outer, half and whole"
    assert list(tmp_path.iterdir()) == [path]


def test_json_comes_back(tmp_path: Path) -> None:
    value = {"name": "größer ≤ 500M", "rows": [1, 2.5, None]}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe"])
def test_torn_json_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(BadInput, match=r"a\.json is not JSON"):
        read_json(tmp_path / "a.json")
    with pytest.raises(BadInput, match=r"no such file: .*b\.json"):
        read_json(tmp_path / "b.json")


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    assert read_jsonl(path) == []
    rows = [{"step": 1, "loss": 2.25}, {"step": 2, "loss": 0.5}]
    whole = "".join(json.dumps(row) + "\n" for row in rows)
    first = len(json.dumps(rows[0])) + 1
    for length in range(len(whole) + 1):
        path.write_text(whole[:length])
        complete = (length >= first) + (length == len(whole))
        assert read_jsonl(path) == rows[:complete], length


def test_rows_are_appended_on_lines_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    append_jsonl(path, [{"step": 1}])
    append_jsonl(path, ({"step": i} for i in (2, 3)))
    whole = path.read_bytes()
    assert read_jsonl(path) == [{"step": 1}, {"step": 2}, {"step": 3}]
    path.write_bytes(whole[:-4])  # torn in the last row
    append_jsonl(path, [{"step": 3}])
    assert path.read_bytes() == whole


def test_what_is_no_regular_file_is_not_replaced(tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(os.devnull)
    for path in (pipe, link, Path(os.devnull)):
        with pytest.raises(BadInput, match=f"cannot write {path}: it is no regular file"):
            write_text(path, "x")
        with pytest.raises(BadInput, match=f"cannot write {path}: it is no regular file"):
            write_together({path: b"x"})
    with pytest.raises(BadInput, match="it is a folder"):
        write_text(tmp_path, "x")
    assert set(tmp_path.iterdir()) == {pipe, link}
    assert Path(os.devnull).is_char_device()


def test_a_long_text_is_a_name_of_a_file_and_keeps_apart_from_others(tmp_path: Path) -> None:
    archs = ["_".join(["e6k3579"] * 60 + [end]) for end in ("e3k3", "e3k5")]
    names = {file_name(arch) for arch in archs}
    for name in names:
        write_text(tmp_path / f"{name}-int8-bytes.onnx.json", "")
    assert len(names) == 2
    assert file_name("e3k3_id") == "e3k3_id"


def test_a_home_of_nobody_is_refused() -> None:
    with pytest.raises(BadInput, match="~nosuch/x: nobody"):
        user_path("~nosuch/x")


def test_paths_that_are_not_utf_8_are_refused(tmp_path: Path) -> None:
    """A run folder that named one could not be read again."""
    path = os.fsdecode(b"d\xff")
    with pytest.raises(BadInput, match=r"'d\\udcff': the path is not UTF-8"):
        user_path(path)
    with pytest.raises(BadInput, match=r"cannot write .*a\.json: .*d\\udcff.* is not UTF-8"):
        write_json(tmp_path / "a.json", {"data": path, "smile": "\U0001f600"})
    assert not (tmp_path / "a.json").exists()
    write_json(tmp_path / "a.json", {"smile": "\U0001f600"})
    assert read_json(tmp_path / "a.json") == {"smile": "\U0001f600"}


def test_a_name_needs_no_quotes_in_a_shell() -> None:
    for arch in ("|nor_conv_3x3~0|+|none~0|none~1|", "Genotype(normal=[('dil_conv_5x5', 0)])"):
        name = file_name(arch)
        assert shlex.quote(name).strip("'") == name and not set(name) & set("|()[]' ")
    assert file_name("e3k3_e6k3.5") == "e3k3_e6k3.5"
