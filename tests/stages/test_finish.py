"""Run folders that are finished by processes of their own."""

from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mobilenas.stages import finish
from mobilenas.workers import WorkersAsked


def test_a_training_may_take_as_long_as_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[WorkersAsked] = []

    @contextmanager
    def workers(given: WorkersAsked, *_: Any) -> Any:
        asked.append(given)
        yield lambda what, groups: iter(())

    monkeypatch.setattr(finish, "open_workers", workers)
    ray = WorkersAsked.parse("ray", 5.0)
    finish.finish_runs([tmp_path], finish.Finish("train", (), 1), ray, lambda path: None)
    assert asked == [WorkersAsked(None, None, None)]
