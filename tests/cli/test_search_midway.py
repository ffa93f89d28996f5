"""`search` interrupted between its steps: in a recovery, in the training of a model, in a climb."""

from pathlib import Path
from typing import Any

import pytest
from helpers import Call
from searched import asked_for
from test_search_command import dying_at_call, lasting

from mobilenas.strategies import compressed, svge
from mobilenas.strategies.graph_vae import GraphVae

BLOCKS = 8


@pytest.mark.parametrize(
    "name, owner, place, number",
    [
        ("ista", compressed, "lasso", 3 * BLOCKS + 4),  # the fourth block of the second recovery
        ("svge", GraphVae, "loss", 7),  # of 20 steps
        ("svge", svge, "climb", 2),  # the second round
    ],
)
def test_an_interrupted_search_goes_on_to_the_same_bytes(
    name: str,
    owner: Any,
    place: str,
    number: int,
    tmp_path: Path,
    call: Call,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    asked = asked_for(name, tmp_path, call)
    assert call(*asked, f"--out={whole}").code == 0
    with monkeypatch.context() as patch:
        patch.setattr(owner, place, dying_at_call(getattr(owner, place), number))
        assert call(*asked, f"--out={killed}").code != 0
    assert (killed / "checkpoint.pt").exists() and not (killed / "front.json").exists()
    assert call("search", "--resume", f"--out={killed}").code == 0
    assert lasting(whole) == lasting(killed)
    if name == "svge":
        labels = [(folder / "labels.jsonl").read_bytes() for folder in (whole, killed)]
        assert labels[0] == labels[1]
