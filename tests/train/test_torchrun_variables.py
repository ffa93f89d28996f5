"""What torchrun says by variables is checked before processes wait for each other."""

import logging
import socket
from datetime import timedelta

import pytest

from mobilenas.base.errors import BadInput, ProcessLost
from mobilenas.base.process import TORCHRUN
from mobilenas.train import distributed
from mobilenas.train.distributed import joined


@pytest.mark.parametrize(
    ("name", "value"), [("RANK", "one"), ("WORLD_SIZE", "-2"), ("MASTER_PORT", ""), ("RANK", "2")]
)
def test_variables_that_are_no_numbers_are_refused(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, number in zip(TORCHRUN, ("0", "2", "0", "127.0.0.1", "29500"), strict=True):
        monkeypatch.setenv(key, number)
    monkeypatch.setenv(name, value)
    with pytest.raises(BadInput, match=f"{name} "), joined():
        pass


@pytest.mark.parametrize("rank", ["0", "1"])
def test_processes_that_nobody_joins_say_so_and_end(
    rank: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    for key, value in zip(TORCHRUN, (rank, "2", "0", "127.0.0.1", port), strict=True):
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(distributed, "end_with_parent", lambda: None)
    monkeypatch.setattr(distributed, "_ANSWER", timedelta(seconds=1.5))
    monkeypatch.setattr(distributed, "_TOLD_SECONDS", 0.2)
    named = rf"2 processes came to 127\.0\.0\.1:{port} .* within 0.025 minutes"
    try:
        with pytest.raises(ProcessLost, match=named), joined():
            pass
    finally:
        logging.getLogger("mobilenas").setLevel(logging.NOTSET)  # all but the main one are quiet
    assert f"waiting for 2 processes at 127.0.0.1:{port}" in caplog.text
