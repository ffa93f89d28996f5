"""`--resume` where there is nothing to resume: refused in the same words by all commands, whatever
else is missing, and nothing is begun.
"""

from pathlib import Path

import pytest
import yaml
from helpers import TINY_SPACE, Call, check_refused, contents
from test_commands import leaves

FARM = ["--space=s2", "--devices=farm.yaml"]

COMMANDS: dict[str, list[str]] = {
    "supernet-train": [],
    "truth": [],
    "rank": ["--truth=none.csv"],
    "evolve": [],
    "evolve in rounds": ["--rounds=2"],
    "sweep": ["--flops=1M"],
    "search": [],
    "search again": ["--preset=cpu"],
    "search of several": ["--seeds=0,1"],
    "train": [],
    "train again": ["--search=none"],
    "detect train": [],
    "detect train again": ["--weights=none"],
    "latency build": [f"--space={TINY_SPACE}", "--device=mine"],
    "latency build of a farm": FARM,
    "latency check of a farm": FARM,
    "latency check": ["epyc-zen5-onnxruntime-fp32-s2"],
}


def words(name: str) -> str:
    """Of a command, without what is particular of it."""
    return next(
        known for known in sorted(leaves(), key=len, reverse=True) if name.startswith(known)
    )


def test_all_commands_that_resume_are_here() -> None:
    resuming = {
        name
        for name, command in leaves().items()
        if any(option.name == "resume" for option in command.params)
    }
    assert set(map(words, COMMANDS)) == resuming


@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_to_resume(
    name: str, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    device = {"name": "epyc-zen5", "runtime": "onnxruntime"}  # which has a shipped table
    Path("farm.yaml").write_text(yaml.safe_dump({"devices": [device]}))
    before = contents(tmp_path)
    command = words(name)
    outcome = call(*command.split(), *COMMANDS[name], "--resume", "--out=none")
    check_refused(outcome)
    assert outcome.err.splitlines()[-1] == (
        f"mobilenas: none holds no run to resume; `mobilenas {command}` without --resume starts one"
    )
    assert contents(tmp_path) == before and not Path("none").exists()
