"""The main job through the command line: supernet, search, ONNX; and how a stopped one goes on."""

import csv
import json
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import ALONE, ENVIRONMENT, TINY, TINY_SPACE, Call, Job, command, contents, processes_of
from make_sources import noise, save
from PIL import Image

from mobilenas.cost import CostModel
from mobilenas.evaluate.evaluator import SupernetEvaluator
from mobilenas.search.front import pick_arch
from mobilenas.space import load_space
from mobilenas.stages import quickstart
from mobilenas.stages import train as train_stage
from mobilenas.train import images
from mobilenas.train.config import load_network_config, load_supernet_config
from mobilenas.train.supernets import open_supernet_run

LIMIT = 1_200_000


def test_training_reports_three_archs(job: Job) -> None:
    result = json.loads((job.supernet / "result.json").read_text())
    found = json.loads((job.supernet / "run.json").read_text())["facts"]["data"]
    validation = result["validation"]
    assert job.trained == {"run": str(job.supernet), "data": found, "validation": validation}
    rows = result["validation"]
    assert [row["name"] for row in rows] == ["smallest", "median", "largest"]
    cost_model = CostModel(load_space(TINY_SPACE))
    extent = cost_model.range("flops")
    assert rows[0]["flops"] == extent.minimum < rows[1]["flops"] < extent.maximum
    assert rows[2]["flops"] == extent.maximum
    for row in rows:
        arch = cost_model.space.parse(row["arch"])
        assert (row["flops"], row["params"]) == (cost_model.flops(arch), cost_model.params(arch))
        for key in ("accuracy_inherited_bn", "accuracy_recalibrated"):
            assert 0 <= row[key] <= 1
            assert abs(row[key] * 60 - round(row[key] * 60)) < 1e-9  # of 60 validation images
    log = [json.loads(line) for line in (job.supernet / "log.jsonl").read_text().splitlines()]
    assert log[-1]["passes"] >= 3
    assert log[-1]["loss"] < log[0]["loss"]


def test_the_splits_share_no_image(job: Job) -> None:
    splits = {k: set(v) for k, v in json.loads((job.supernet / "splits.json").read_text()).items()}
    assert {name: len(rows) for name, rows in splits.items()} == {
        "train": 200,
        "calibrate": 32,
        "validate": 60,
    }
    assert not splits["validate"] & splits["train"]
    assert splits["calibrate"] < splits["train"]


def test_the_front_is_within_the_budget_and_not_dominated(job: Job) -> None:
    stored = json.loads((job.search / "front.json").read_text())
    front = stored["front"]
    found = json.loads((job.search / "run.json").read_text())["facts"]["data"]
    assert (found["source"], found["classes"]) == ("digits", list("0123456789"))
    assert job.searched == {
        "run": str(job.search),
        "data": found,
        "evaluations": stored["evaluations"],
        "front": front,
    }
    lines = (job.search / "evaluations.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == stored["evaluations"] <= 18
    assert len({row["arch"] for row in rows}) == len(rows)
    cost_model = CostModel(load_space(TINY_SPACE))
    for row in rows:
        arch = cost_model.space.parse(row["arch"])
        assert row["flops"] == cost_model.flops(arch) <= LIMIT
        assert row["params"] == cost_model.params(arch) <= 90_000

    with (job.search / "history.csv").open() as file:
        scored = list(csv.DictReader(file))
    points = {row["arch"]: (int(row["flops"]), -float(row["score"])) for row in scored}
    assert points.keys() == {row["arch"] for row in rows}

    def beaten(mine: tuple[int, float]) -> bool:
        """Whether another arch is as good in both objectives and better in one."""
        return any(o != mine and o[0] <= mine[0] and o[1] <= mine[1] for o in points.values())

    best = {arch for arch, point in points.items() if not beaten(point)}
    assert {row["arch"] for row in front} == best
    assert [row["flops"] for row in front] == sorted(row["flops"] for row in front)
    assert (job.search / "front.png").read_bytes().startswith(b"\x89PNG")
    table = (job.search / "history.csv").read_text().splitlines()
    assert [line.split(",")[1] for line in table] == ["arch", *(row["arch"] for row in rows)]


def test_the_onnx_file_is_the_network_and_says_what_it_is(job: Job) -> None:
    import onnxruntime
    import torch

    from mobilenas.data import load_data
    from mobilenas.evaluate.evaluator import SupernetEvaluator
    from mobilenas.export.deployable import normalise

    path = Path(job.exported["path"])
    front = json.loads((job.search / "front.json").read_text())["front"]
    chosen = pick_arch(front, "knee")
    assert path == job.search / f"{chosen}.onnx"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    assert about == job.exported["metadata"]
    assert about["arch"] == chosen
    assert about["space"] == TINY_SPACE
    (row,) = (row for row in front if row["arch"] == chosen)
    assert int(about["flops_multiply_adds"]) == row["flops"]

    test = load_data("digits", 16).test
    assert test is not None
    scale = json.loads(about["input_normalisation"])
    images = normalise(test.pixels, scale["mean"], scale["std"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: images})
    right = logits.argmax(axis=1) == test.labels
    assert float(about["top1_accuracy"]) == pytest.approx(right.mean(), abs=1e-9)
    assert about["top1_accuracy_on"] == f"{len(right)} test images"

    run = open_supernet_run(job.supernet)
    network = SupernetEvaluator(run).network(run.space.parse(chosen))
    with torch.inference_mode():
        expected = network(torch.from_numpy(images)).numpy()
    assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()
    assert all(check["top1_agreement"] == 1 for check in job.exported["verification"]["parity"])


def test_neither_training_nor_search_sees_a_test_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    from mobilenas.data import read_data

    class Forbidden:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(f"the {name} of the test images was asked for")

        def __len__(self) -> int:
            raise AssertionError("the number of the test images was asked for")

    def read(*asked: Any, **how: Any) -> Any:
        data = read_data(*asked, **how)
        return replace(data, test=Forbidden())

    monkeypatch.setattr(images, "read_data", read)
    supernet, search = tmp_path / "supernet", tmp_path / "evolve"
    train = call(
        *("supernet-train", f"--space={TINY_SPACE}", *TINY, "--set=passes=1", f"--out={supernet}")
    )
    assert train.code == 0, train.err
    assert "recalibrated" in train.out
    assert f"mobilenas evolve --supernet {supernet}" in train.out
    small = ("--flops=1.2M", "--population=4", "--generations=2")
    evolve = call("evolve", f"--supernet={supernet}", *small, f"--out={search}")
    assert evolve.code == 0, evolve.err
    assert f"mobilenas train --search {search}" in evolve.out
    with pytest.raises(AssertionError, match="test images"):
        call("export", "--onnx", f"--run={search}")


def test_quickstart_does_the_whole_job_and_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    tiny = load_supernet_config("quick", [item.removeprefix("--set=") for item in TINY[1:]])
    run_evolve = quickstart.run_evolve

    def small_search(search: Any, *arguments: Any, **how: Any) -> Any:
        return run_evolve(replace(search, population=4, generations=2), *arguments, **how)

    monkeypatch.setattr(
        quickstart, "load_supernet_config", lambda *_: tiny.model_copy(update={"passes": 0.5})
    )
    monkeypatch.setattr(quickstart, "load_space", lambda _: load_space(TINY_SPACE))
    monkeypatch.setattr(quickstart, "run_evolve", small_search)
    alone = load_network_config("digits", [item.removeprefix("--set=") for item in ALONE[1:]])
    monkeypatch.setattr(train_stage, "load_network_config", lambda *_: alone)
    out = tmp_path / "quickstart"
    first = call("quickstart", f"--out={out}")
    assert first.code == 0, first.err
    (model,) = (out / "train").glob("*.onnx")
    assert str(model) in first.out
    assert "top-1 agreement 100.0 %" in first.out
    before = contents(out)
    again = call("quickstart", f"--out={out}", "--json")
    report = json.loads(again.out)
    assert report["run"] == str(out)
    assert report["export"]["path"] == str(model)
    assert contents(out) == before


def test_resume_of_a_finished_search_needs_no_other_flag(job: Job, call: Call) -> None:
    before = contents(job.folder)
    assert call("evolve", f"--out={job.search}", "--resume").code == 0
    assert contents(job.folder) == before


def test_a_search_by_score_goes_to_an_export_and_resumes(
    job: Job, tmp_path: Path, call: Call
) -> None:
    out = tmp_path / "evolve"
    asked = ("evolve", f"--supernet={job.supernet}", "--population=4", "--generations=2")
    shown = call(*asked, "--objectives=score,params", f"--out={out}")
    assert shown.code == 0, shown.err
    assert shown.out.split()[:5] == ["score", "accuracy", "naswot", "FLOPs", "params"]
    assert "naswot (of the untrained network)" in shown.out
    front = json.loads((out / "front.json").read_text())["front"]
    best = max(front, key=lambda row: row["score"])
    archs = [load_space(TINY_SPACE).parse(row["arch"]) for row in front]
    evaluator = SupernetEvaluator(open_supernet_run(job.supernet))
    assert [row["naswot"] for row in front] == pytest.approx(evaluator.naswot(archs, seed=0))
    exported = call("export", "--onnx", f"--run={out}", "--json")
    assert json.loads(exported.out)["metadata"]["arch"] == best["arch"]
    before = contents(out)
    assert call("evolve", "--resume", f"--out={out}").code == 0
    assert contents(out) == before


@pytest.mark.parametrize(
    ("number", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "stopped by SIGTERM")]
)
def test_a_signal_ends_all_processes_and_says_how_to_go_on(
    number: signal.Signals, word: str, tmp_path: Path
) -> None:
    folder = tmp_path / "supernet"
    for name, pixels in enumerate(noise(200)):
        save(tmp_path / "images" / f"{name % 10}" / f"{name}.png", Image.fromarray(pixels))
    train = ("supernet-train", f"--space={TINY_SPACE}", *TINY, "--passes=1000", f"--out={folder}")
    streamed = (f"--data={tmp_path / 'images'}", "--set=stream=true", "--set=workers=2")
    process = subprocess.Popen(
        command(*train, *streamed, "--set=limit=null"),
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Interrupts are ignored by what a shell started in the background, and by its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    with process:
        try:
            deadline = time.monotonic() + 60
            while not (folder / "checkpoint.pt").exists() and time.monotonic() < deadline:
                assert process.poll() is None
                time.sleep(0.01)
            assert len(processes_of(folder)) == 3
            process.send_signal(number)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 128 + number
    assert out == ""
    assert err.splitlines()[-1] == f"mobilenas: {word}; --resume continues the run"
    assert "Traceback" not in err
    assert processes_of(folder) == []
