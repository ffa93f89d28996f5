"""Whatever is in a file that is read, it is taken or refused by one line that names it, soon."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mobilenas.base.errors import BadInput
from mobilenas.base.files import read_json, read_jsonl
from mobilenas.base.resources import resource
from mobilenas.cost.latency import list_tables, read_table
from mobilenas.data.splits import Splits
from mobilenas.latency.measure import TimingLog
from mobilenas.runs import RunFolder
from mobilenas.search.front import PICKS, read_search, spread_archs
from mobilenas.search.replay import _Row
from mobilenas.space import load_any_space, load_space
from mobilenas.stages.measurements import _Measurement
from mobilenas.stages.rank import _Prediction, _Scores
from mobilenas.strategies.score_log import ScoreLog
from mobilenas.train.config import load_network_config, load_supernet_config
from mobilenas.train.networks import NetworkResult
from mobilenas.train.supernets import SupernetSettings
from mobilenas.train.trainer import _LogRow

# Reading that goes wrong takes minutes or has no end; one second of a busy process says nothing.
SECONDS = 30
ARCH = "e3k3_e3k5_e3k3_e3k37_e3k35_e3k5"


def _run() -> dict[str, Any]:
    space, config = load_space("digits:resolution=16"), load_supernet_config("quick", [])
    chosen = {"space": space.to_dict(), "data": "digits", "seed": 3, "config": config.model_dump()}
    places = {"data": "/images"}
    return {"kind": "supernet", "settings": chosen, "parents": places, "facts": {"classes": ["a"]}}


def _front() -> dict[str, Any]:
    about = {"objectives": ["accuracy", "flops"], "limits": {"flops": 2e6}}
    about |= {"places": {"supernet": "/supernet"}, "evaluator": {"weights": 7}}
    row = {"arch": ARCH, "generation": 1, "feasible": True}
    figures = ({"accuracy": 0.1 * i, "flops": 1000 * i, "params": 10 * i} for i in (2, 3, 4))
    return {"front": [row | found for found in figures], "settings": about}


def _use_front(path: Path) -> None:
    found = read_search(path.parent)
    for pick in PICKS:
        found.pick(pick)
    spread_archs(found.front, 3, found.cost)


def _rows(**row: Any) -> bytes:
    return b"".join(json.dumps(row | {"step": i + 1}).encode() + b"\n" for i in range(4))


def _lines(**row: Any) -> bytes:
    return 3 * (json.dumps(row).encode() + b"\n")


def _typed(shape: Any) -> Callable[[Path], object]:
    return lambda path: read_jsonl(path, shape)


TRAINED = {"arch": ARCH, "last_accuracy": 0.5, "test_accuracy": None, "test_images": 0}
TRAINED |= {"flops": 1000, "validation_images": 60}
MEASURED: dict[str, Any] = {"arch": ARCH, "accuracy": 0.5}
SCORES: dict[str, Any] = {"without": ["a", "b"], "loss": [2.25, 1.5], "accuracy": [0.5, 0.25]}
SCORES |= {"spent": 64.5}

# Name of a file -> what it holds, and what reads it.
FILES: dict[str, tuple[bytes, Callable[[Path], object]]] = {
    "run.json": (
        json.dumps(_run()).encode(),
        lambda path: RunFolder.open(path.parent, "supernet").read(SupernetSettings),
    ),
    "timing.json": (
        b'{"seconds": 12.5, "device": "cpu"}',
        lambda path: RunFolder(path.parent, "train", {}).seconds,
    ),
    "result.json": (
        json.dumps(TRAINED).encode(),
        lambda path: RunFolder(path.parent, "train", {}).result(NetworkResult),
    ),
    "front.json": (json.dumps(_front()).encode(), _use_front),
    "splits.json": (
        b'{"train": [1, 2, 5], "calibrate": [2], "validate": [3, 4]}',
        lambda path: Splits.from_json(read_json(path)),
    ),
    "log.jsonl": (_rows(step=1, epoch=0.5, loss=2.25), _typed(_LogRow)),
    "evaluations.jsonl": (_lines(generation=1, **MEASURED), _typed(_Row)),
    "predictions.jsonl": (_lines(**MEASURED), _typed(_Prediction)),
    "measured.jsonl": (_lines(naswot=1234.5, **MEASURED), _typed(_Measurement)),
    "zero_cost.jsonl": (_lines(arch=ARCH, naswot=1.5, synflow=1e9), _typed(_Scores)),
    "contributions.jsonl": (_lines(choice="step 0, order 1", **SCORES), ScoreLog),
    "projections.jsonl": (_lines(choice="edge 0-1", **SCORES), ScoreLog),
    "labels.jsonl": (_lines(choice="archs", **SCORES), ScoreLog),
    "timings.jsonl": (_lines(key="head-1", ms=0.5, runs=9), lambda path: TimingLog(path)),
    "space.yaml": (
        (resource("configs") / "spaces" / "s2.yaml").read_bytes(),
        lambda path: load_any_space(str(path)),
    ),
    "cells.yaml": (
        (resource("configs") / "cells" / "nb101.yaml").read_bytes(),
        lambda path: load_any_space(str(path)),
    ),
    "preset.yaml": (
        (resource("configs") / "train" / "cifar10.yaml").read_bytes(),
        lambda path: load_network_config(str(path), []),
    ),
}
WORDS = [
    *(b"true", b"null", b"-1", b"0", b"1e999", b"NaN", b"9" * 400, b"9" * 5000, b"2001-99-99"),
    *(b'""', b"[]", b"{}", b"\x00", b"\xff", b'"\\ud800"', b"!!int x", b"*a", b"&a [1]", b"~"),
    *(b"[" * 100_000, b'{"a":' * 5000, b"1000000000", b"0.5", b"id", b"e3k3", b"- - -", b"? "),
]


def damaged(content: bytes) -> st.SearchStrategy[bytes]:
    """The content with bits flipped, with its end or a part of it missing, or with numbers and
    words in the place of others.
    """
    place = st.integers(0, len(content) - 1)
    flip = st.lists(st.tuples(place, st.integers(0, 7)), min_size=1, max_size=4)
    swap = st.tuples(place, st.sampled_from(WORDS))

    def flipped(flips: list[tuple[int, int]]) -> bytes:
        changed = bytearray(content)
        for at, bit in flips:
            changed[at] ^= 1 << bit
        return bytes(changed)

    def swapped(change: tuple[int, bytes]) -> bytes:
        start = end = change[0]
        while start and content[start - 1 : start].isalnum():
            start -= 1
        while content[end : end + 1].isalnum():
            end += 1
        return content[:start] + change[1] + content[max(end, start + 1) :]

    cut = st.tuples(place, place).map(lambda ends: content[: min(ends)] + content[max(ends) :])
    return st.one_of(flip.map(flipped), swap.map(swapped), cut, place.map(lambda at: content[:at]))


@pytest.mark.parametrize("name", FILES)
def test_it_is_read_when_it_is_whole(name: str, tmp_path: Path) -> None:
    content, read = FILES[name]
    (tmp_path / name).write_bytes(content)
    read(tmp_path / name)


@pytest.mark.parametrize("name", FILES)
@settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused_in_one_line(
    name: str, tmp_path: Path, data: st.DataObject
) -> None:
    content, read = FILES[name]
    path = tmp_path / name
    path.write_bytes(data.draw(damaged(content)))
    start = time.process_time()
    try:
        read(path)
    except BadInput as error:
        assert "\n" not in str(error)
        assert str(path.parent) in str(error) or "splits: " in str(error)
    assert time.process_time() - start < SECONDS


def test_every_shipped_table_is_read() -> None:
    for path in list_tables().values():
        read_table(path)
