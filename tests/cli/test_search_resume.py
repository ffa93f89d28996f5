"""`search --resume` with some of the flags that the search was started with."""

from pathlib import Path

import pytest
from helpers import Call, check_refused
from searched import SMALL

from mobilenas.stages import search as stage


def test_the_strategy_may_be_left_out_where_its_settings_are_given(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = {"front": [{"arch": "a", "flops": 1}], "passes": 0, "standing": {}}
    monkeypatch.setattr(stage, "run_search", lambda *_: done)
    out = f"--out={tmp_path / 'search'}"
    own = "--set=order=2"
    assert call("search", "--strategy=darts", *SMALL, own, out).code == 0
    again = call("search", "--resume", *SMALL, own, out)
    assert again.code == 0, again.err
    check_refused(call("search", "--resume", *SMALL, out), "config.order (2, not 1)")
    check_refused(call("search", "--resume", "--strategy=gdas", *SMALL, out), "gdas")
