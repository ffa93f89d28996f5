"""The option --track of the commands that write run folders."""

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers import TINY, TINY_SPACE, Call, check_refused

TRAIN = ("supernet-train", f"--space={TINY_SPACE}", *TINY, "--set=passes=1")
COMMANDS = ("supernet-train", "truth", "rank", "evolve", "search", "train", "detect train")


def test_without_mlflow_nothing_is_begun(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    out = tmp_path / "run"
    refused = call(*TRAIN, f"--out={out}", f"--track=file://{tmp_path}/store")
    check_refused(refused, "pip install '.[track]'")
    assert not out.exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_it_and_all_its_other_options(call: Call, command: str) -> None:
    shown = call(*command.split(), "--help").out
    assert "--track" in shown and "--out" in shown and "--resume" in shown


def test_a_list_is_no_run(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    listed = call("search", "--list", f"--track=file://{tmp_path}/store")
    assert listed.code == 0 and "proxyless" in listed.out
    assert not (tmp_path / "store").exists()


@pytest.mark.skipif(find_spec("mlflow") is None, reason="the extra `track` is not installed")
def test_a_training_is_tracked(call: Call, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = (tmp_path / "store").as_uri()
    done = call(*TRAIN, f"--out={tmp_path / 'run'}", "--json", f"--track={uri}")
    assert done.code == 0, done.err
    assert done.out.count("\n") == 1 and f"in mlflow at {uri}: run " in done.err
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("mobilenas")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.params["config.passes"] == "1.0" and run.data.metrics["log.loss"] > 0
