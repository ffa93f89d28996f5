"""Run folders in mlflow, in a folder as its store."""

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from mobilenas.base.errors import BadInput, NotTracked
from mobilenas.base.files import write_json, write_jsonl
from mobilenas.cli.track import tracked
from mobilenas.runs.folder import RunFolder
from mobilenas.runs.track import check_tracker, track

pytestmark = pytest.mark.skipif(
    find_spec("mlflow") is None, reason="the extra `track` is not installed"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "evolve"
    settings = {"seed": 3, "recipe": {"name": "s1", "kernels": [3, 5]}, "long": "x" * 1000}
    run = RunFolder.create(path, "evolve", settings, parents={"supernet": "/runs/supernet"})
    run.store_timing(12.5, {"machine": "x86_64"})
    front = [{"arch": "a", "accuracy": 0.5, "feasible": True}, {"arch": "b", "accuracy": 0.75}]
    run.store_result({"front": front, "best": {"latency ms@a,b": 3, "share": None}})
    write_jsonl(path / "log.jsonl", [{"step": 2, "loss": 1.5}, {"step": 4, "loss": float("nan")}])
    (path / "checkpoint.pt").write_bytes(b"large")
    for name in ("network/config.json", "tensorboard/events", "rounds/1/run.json"):
        (path / name).parent.mkdir(parents=True)
        write_json(path / name, {})
    return path


def test_settings_figures_curves_and_files_are_there(folder: Path, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = (tmp_path / "store").as_uri()
    check_tracker(uri)
    run_id = track(folder, uri)
    client = MlflowClient(uri)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED" and run.info.run_name == "evolve evolve"
    assert run.data.params == {"seed": "3", "recipe.name": "s1", "recipe.kernels": "[3, 5]"}
    tags = run.data.tags
    assert tags["kind"] == "evolve" and tags["folder"] == str(folder)
    assert tags["parent.supernet"] == "/runs/supernet" and tags["timing.machine"] == "x86_64"
    last = {"seconds": 12.5, "front.accuracy": 0.75, "best.latency ms_a_b": 3.0, "log.loss": 1.5}
    assert run.data.metrics == last

    def curve(name: str) -> list[tuple[int, float]]:
        return [(point.step, point.value) for point in client.get_metric_history(run_id, name)]

    assert curve("front.accuracy") == [(0, 0.5), (1, 0.75)] and curve("log.loss") == [(2, 1.5)]
    top = {file.path for file in client.list_artifacts(run_id)}
    assert top == {"front.json", "log.jsonl", "network", "run.json", "timing.json"}
    assert [file.path for file in client.list_artifacts(run_id, "network")] == [
        "network/config.json"
    ]
    assert track(folder, uri) != run_id  # a run each time


def test_a_curve_of_many_points_is_whole(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    RunFolder.create(tmp_path / "run", "train", {})
    write_jsonl(tmp_path / "run/log.jsonl", [{"step": n, "loss": n / 2} for n in range(1201)])
    uri = (tmp_path / "store").as_uri()
    run_id = track(tmp_path / "run", uri)
    points = MlflowClient(uri).get_metric_history(run_id, "log.loss")
    assert [(p.step, p.value) for p in points] == [(n, n / 2) for n in range(1201)]


def test_of_a_folder_of_runs_each_is_written(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    for name in ("seed-0", "seed-1"):
        RunFolder.create(tmp_path / "runs" / name, "search", {})
    uri = (tmp_path / "store").as_uri()
    tracked(lambda *, out: None)(track=uri, out=tmp_path / "runs")
    client = MlflowClient(uri)
    (experiment,) = client.search_experiments(filter_string="name = 'mobilenas'")
    names = {run.info.run_name for run in client.search_runs([experiment.experiment_id])}
    assert names == {"search seed-0", "search seed-1"}


def test_what_cannot_be_asked_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for uri in ("http://127.0.0.1:9", "nonsense://x"):
        with pytest.raises(BadInput, match=f"--track {uri}: ") as refused:
            check_tracker(uri)
        assert "\n" not in str(refused.value)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(BadInput, match=r"pip install '\.\[track\]'"):
        check_tracker("http://127.0.0.1:9")


def test_a_run_that_cannot_be_written_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(NotTracked, match=f"{folder} is done, but not in http://127.0.0.1:9: "):
        track(folder, "http://127.0.0.1:9")
