"""`train` through the command line: what it prints and writes, and who reads it afterwards."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from helpers import (
    ALONE,
    TINY_ARCH,
    TINY_SPACE,
    Call,
    Job,
    Trained,
    check_refused,
    contents,
    edit,
    edit_settings,
    is_written_last,
    untimed,
)

from mobilenas.base.files import read_json, read_jsonl
from mobilenas.cost import CostModel
from mobilenas.data import load_data
from mobilenas.nn.saved import load_network
from mobilenas.search.front import read_search
from mobilenas.space import load_space
from mobilenas.train.distributed import Processes
from mobilenas.train.supernets import open_supernet_run

FILES = {
    *("run.json", "splits.json", "log.jsonl", "checkpoint.pt", "timing.json", "result.json"),
    *("network/model.safetensors", "network/config.json", "network/README.md"),
    *("last/model.safetensors", "last/config.json"),
}


def test_json_is_one_object_and_the_folder_is_full(trained: Trained) -> None:
    result = read_json(trained.folder / "result.json")
    found = read_json(trained.folder / "run.json")["facts"]["data"]
    assert (found["source"], found["test_images"]) == ("digits", 355)
    assert trained.result == result | {"run": str(trained.folder), "data": found}
    cost_model = CostModel(load_space(TINY_SPACE))
    arch = cost_model.space.parse(TINY_ARCH)
    assert (result["space"], result["arch"]) == (TINY_SPACE, TINY_ARCH)
    assert (result["flops"], result["params"]) == (cost_model.flops(arch), cost_model.params(arch))
    assert isinstance(result["latency_ms"], dict)  # of the tables that have the rows of the space
    assert (result["validation_images"], result["test_images"]) == (60, 355)
    right = 355 * result["test_accuracy"]
    assert right == pytest.approx(round(right), abs=1e-9)
    rows = read_jsonl(trained.folder / "log.jsonl")
    accuracies = {row["step"]: row["accuracy"] for row in rows if "accuracy" in row}
    assert accuracies.keys() == {10, 20}
    assert result["accuracy"] == max(accuracies.values())
    assert result["last_accuracy"] == accuracies[20]
    assert untimed(trained.folder).keys() == FILES
    assert is_written_last(trained.folder / "result.json")
    splits = read_json(trained.folder / "splits.json")
    assert (len(splits["train"]), len(splits["validate"])) == (160, 60)
    assert not set(splits["train"]) & set(splits["validate"])


def test_resume_of_a_finished_run_changes_nothing_and_prints_it_again(
    trained: Trained, call: Call
) -> None:
    before, result = contents(trained.folder), read_json(trained.folder / "result.json")
    again = call("train", "--resume", f"--out={trained.folder}")
    assert again.code == 0, again.err
    first, accuracy, test, last = again.out.splitlines()
    assert first.startswith(f"{TINY_ARCH}, 646.4k FLOPs, 43.71k params, ")
    assert f"accuracy {100 * result['accuracy']:.2f} % on 60 validation images" in accuracy
    assert f"(last: {100 * result['last_accuracy']:.2f} %)" in accuracy
    assert test == f"accuracy {100 * result['test_accuracy']:.2f} % on 355 test images"
    assert f"mobilenas export --onnx --run {trained.folder}" in last
    same = [f"--space={TINY_SPACE}", f"--arch={TINY_ARCH}", "--data=digits", "--seed=3", *ALONE]
    same += ["--resolution=16", "--json"]
    full = call("train", "--resume", f"--out={trained.folder}", *same)
    found = read_json(trained.folder / "run.json")["facts"]["data"]
    assert json.loads(full.out) == result | {"run": str(trained.folder), "data": found}
    assert contents(trained.folder) == before


def test_resume_shares_the_batch_of_the_run_not_of_the_default_preset(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    shared = []

    def share(processes: Processes, count: int) -> Any:
        shared.append(count)
        return original(processes, count)

    original = Processes.share
    monkeypatch.setattr(Processes, "share", share)
    assert call("train", "--resume", f"--out={trained.folder}").code == 0
    assert set(shared) == {16}


def test_the_same_command_makes_the_same_run(trained: Trained, tmp_path: Path, call: Call) -> None:
    """Whatever was trained before in the process, and wherever the folder is."""
    torch.manual_seed(1)
    train = ("train", f"--space={TINY_SPACE}", f"--arch={TINY_ARCH}", *ALONE, "--seed=3")
    done = call(*train, f"--out={tmp_path / 'run'}")
    assert done.code == 0, done.err
    assert "train 100%" in done.err
    for name in ("run.json", "splits.json"):
        assert (tmp_path / "run" / name).read_bytes() == (trained.folder / name).read_bytes()
    logs = [read_jsonl(folder / "log.jsonl") for folder in (tmp_path / "run", trained.folder)]
    assert [row["lr"] for row in logs[0]] == [row["lr"] for row in logs[1]]
    assert logs[0][0]["loss"] == pytest.approx(logs[1][0]["loss"], rel=1e-4)  # other threads


def start(call: Call, out: Path, *arguments: object) -> dict[str, Any]:
    """The settings of a training of one step at a rate that moves nothing."""
    tiny = ("--set=epochs=0.1", "--set=lr=1e-12", "--set=warmup_epochs=0")
    done = call("train", *ALONE, *tiny, *arguments, f"--out={out}", "--json")
    assert done.code == 0, done.err
    run: dict[str, Any] = read_json(out / "run.json")["settings"]
    assert json.loads(done.out)["arch"] == run["arch"]
    return run


def test_the_pick_of_a_search_is_trained_on_its_data(job: Job, tmp_path: Path, call: Call) -> None:
    run = start(call, tmp_path / "run", f"--search={job.search}", "--pick=knee")
    supernet = read_json(job.supernet / "run.json")["settings"]
    assert run["arch"] == read_search(job.search).pick("knee")
    assert (run["space"], run["data"]) == (supernet["space"], supernet["data"])
    assert (run["inherit"], run["weights"]) == (None, None)
    resume = ("train", "--resume", f"--out={tmp_path / 'run'}", f"--search={job.search}")
    assert call(*resume, "--pick=knee").code == 0
    if read_search(job.search).pick("cheapest") != run["arch"]:
        check_refused(call(*resume, "--pick=cheapest"), "another arch")


def test_images_are_normalised_as_the_supernet_had_them(
    job: Job, tmp_path: Path, call: Call
) -> None:
    supernet = tmp_path / "supernet"
    shutil.copytree(job.supernet, supernet)
    facts = read_json(supernet / "run.json")["facts"]
    assert len(facts["mean"]) == len(facts["std"]) == 3
    theirs = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}  # as of images that are streamed
    edit(supernet / "run.json", facts=facts | theirs)
    run = tmp_path / "run"
    start(call, run, f"--inherit={supernet}", f"--arch={TINY_ARCH}")
    assert theirs.items() <= read_json(run / "run.json")["facts"].items()
    _, info = load_network(run / "network")
    assert (list(info.mean), list(info.std)) == (theirs["mean"], theirs["std"])


def test_training_inherits_the_weights_of_a_supernet(job: Job, tmp_path: Path, call: Call) -> None:
    run = start(call, tmp_path / "run", f"--inherit={job.supernet}", f"--arch={TINY_ARCH}")
    supernet = open_supernet_run(job.supernet)
    assert run["inherit"] == str(job.supernet.resolve())
    assert (run["space"], run["data"]) == (supernet.space.to_dict(), "digits")
    network, _ = load_network(tmp_path / "run" / "last")
    inherited = type(network)(network.space, network.arch)
    inherited.load_from(supernet.load_supernet())  # type: ignore[arg-type]
    for ours, theirs in zip(network.parameters(), inherited.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_weights_say_space_and_arch(trained: Trained, tmp_path: Path, call: Call) -> None:
    saved = trained.folder / "network"
    run = start(call, tmp_path / "run", f"--weights={saved}", "--resolution=12", "--seed=1")
    # Its weights have seen the others.
    splits = [read_json(each / "splits.json") for each in (trained.folder, tmp_path / "run")]
    assert splits[1]["validate"] == splits[0]["validate"]
    assert (run["arch"], run["data"], run["weights"]) == (TINY_ARCH, "digits", str(saved))
    assert run["space"]["resolution"] == 12
    before, info = load_network(saved)
    after, new_info = load_network(tmp_path / "run" / "last")
    assert after.space.resolution == 12
    assert (new_info.mean, new_info.std) == (info.mean, info.std)
    for ours, theirs in zip(after.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_the_trained_network_is_exported(
    trained: Trained, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained.folder, "runs/train")
    shutil.copytree(job.search, "runs/evolve")
    result = read_json(trained.folder / "result.json")
    done = call("export", "--onnx", "--run=runs/train", "--json")
    report = json.loads(done.out)
    assert report["path"] == f"runs/train/{TINY_ARCH}.onnx"
    assert all(check["top1_agreement"] == 1 for check in report["verification"]["parity"])
    about = report["metadata"]
    assert about["arch"] == TINY_ARCH
    assert about["top1_accuracy_on"] == "355 test images"
    assert float(about["top1_accuracy"]) == pytest.approx(result["test_accuracy"], abs=1e-9)
    evaluated = json.loads(call("eval", report["path"], "--data=digits", "--json").out)
    assert evaluated["top1"] == pytest.approx(result["test_accuracy"], abs=1e-9)

    newest = {"train": "train/result.json", "evolve": "evolve/front.json"}
    for name, file in newest.items():
        for other in newest.values():
            os.utime(Path("runs") / other, (1e9, 1e9 + (other == file)))
        done = call("export", "--onnx", f"--out={name}.onnx")
        assert done.code == 0, done.err
        assert (f"{TINY_ARCH}: " in done.out) == (name == "train"), done.out


def test_export_wants_a_finished_training(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    monkeypatch.chdir(tmp_path)
    check_refused(
        call("export", "--onnx"), "no finished run in runs/train or runs/evolve or runs/search"
    )
    shutil.copytree(trained.folder, "run")
    for flags, words in (
        ("--pick=knee", "--pick is for a run of evolve"),
        ("--data=/no/such", "/no/such"),
    ):
        check_refused(call("export", "--onnx", "--run=run", flags), words)
    Path("run/result.json").unlink()
    check_refused(call("export", "--onnx", "--run=run"), "mobilenas train --resume --out run")
    assert not list(tmp_path.rglob("*.onnx"))


def test_eval_and_timm_read_the_trained_network(trained: Trained, call: Call) -> None:
    saved = trained.folder / "network"
    found = json.loads(call("eval", saved, "--data=digits", "--json").out)
    result = read_json(trained.folder / "result.json")
    assert (found["n"], found["resolution"]) == (355, 16)
    assert found["top1"] == pytest.approx(result["test_accuracy"], abs=1e-9)

    import mobilenas.timm  # noqa: F401 - registers the model

    model = timm.create_model(f"local-dir:{saved}", pretrained=True).eval()
    network, info = load_network(saved)
    images = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(model(images), network(images))
    assert model.pretrained_cfg["mean"] == pytest.approx(info.mean)
    assert model.pretrained_cfg["label_names"] == list(info.classes)
    train = load_data("digits", 16).train.pixels / 255
    assert info.mean == pytest.approx(train.mean(axis=(0, 1, 2)).tolist(), abs=1e-4)
    assert np.all(np.array(info.std) > 0)


def test_a_killed_run_loses_no_row_of_tensorboard(
    trained: Trained, tmp_path: Path, call: Call
) -> None:
    """A resumed run writes the past anew: what a killed one had not flushed is there too."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    shutil.copytree(trained.folder, run)
    shutil.rmtree(run / "tensorboard")
    config = read_json(run / "run.json")["settings"]["config"]
    edit_settings(run, config=config | {"epochs": 3})  # so that 10 steps are left to do
    assert call("train", "--resume", f"--out={run}").code == 0
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    rows = read_jsonl(run / "log.jsonl")
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [
        (row["step"], pytest.approx(row["loss"])) for row in rows
    ]
    assert [e.step for e in events.Scalars("accuracy")] == [10, 20, 30]
