"""Run folders as the release before had them: each is read, and trainings are resumed.

earlier/NAME holds a run that was stopped on its way, earlier/NAME-end the checkpoint and the log
with which the code of that release ended.
"""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import edit

from mobilenas.base.errors import BadInput
from mobilenas.base.files import read_json, read_jsonl
from mobilenas.latency.host import processor
from mobilenas.runs import Kind, RunFolder
from mobilenas.runs.earlier import current_checkpoint
from mobilenas.runs.folder import check_free
from mobilenas.stages.supernet_train import (
    resume_supernet_run,
    score_supernet,
    train_supernet,
)
from mobilenas.stages.train import finish_train, train_network
from mobilenas.train.checkpoint import load_checkpoint
from mobilenas.train.config import NetworkConfig, SupernetConfig
from mobilenas.train.device import hardware
from mobilenas.train.networks import open_network_run
from mobilenas.train.supernets import load_supernet, open_supernet_run

EARLIER = Path(__file__).parent / "earlier"
# What of each run has to be read: some of its settings, its parents, the names of its facts.
RUNS: dict[str, tuple[Kind, dict[str, Any], dict[str, str], set[str]]] = {
    "supernet": (
        "supernet",
        {"data": "digits", "seed": 3},
        {},
        {"mobilenas", "data_checksum", "classes"},
    ),
    "train": (
        "train",
        {"arch": "e2k3_e2k13", "data": "digits", "seed": 3, "inherit": "/runs/supernet-end"},
        {"supernet": "/runs/supernet-end"},
        {"mobilenas", "data_checksum", "mean", "std", "teacher_checksum"},
    ),
    "evolve": (
        "evolve",
        {"objectives": ["accuracy", "params"], "population": 4, "generations": 2, "seed": 5},
        {"supernet": "/runs/supernet-end"},
        set(),
    ),
    "rank": (
        "rank",
        {"n": 8, "seed": 2, "truth": "truth.csv", "recalibrated": True},
        {},
        {"archs"},
    ),
    "detect": (
        "detect",
        {"config": "retinanet_quick", "data": "digits", "seed": 4, "weights": None},
        {},
        {"mobilenas", "classes", "data_checksum", "weights_checksum"},
    ),
    "latency": ("latency", {"device": "laptop", "runtime": "onnxruntime", "batch": 1}, {}, set()),
    "check": (
        "latency-check",
        {"table": "laptop-onnxruntime-fp32-three", "dtype": "fp32"},
        {},
        set(),
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_read_and_stays_as_it_is(name: str, tmp_path: Path) -> None:
    kind, settings, parents, facts = RUNS[name]
    folder = shutil.copytree(EARLIER / name, tmp_path / name)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    run = RunFolder.open(folder, kind)
    assert run.kind == kind
    assert {key: run.settings[key] for key in settings} == settings
    assert run.parents == parents
    assert run.facts.keys() == facts
    assert not run.settings.keys() & {"mobilenas", "data_checksum", "places"}
    assert not run.is_finished
    run.check_unchanged(settings)
    with pytest.raises(BadInput, match="already holds a run"):
        check_free(folder)
    other: Kind = "train" if kind != "train" else "supernet"
    with pytest.raises(BadInput) as refused:
        RunFolder.open(folder, other)
    assert "\n" not in str(refused.value)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def tolerance(run: RunFolder) -> float:
    """0 where the run was made on hardware and a torch like these: then the bits are equal. It was
    made on an AMD EPYC; others add up in another order.
    """
    made = read_json(EARLIER / run.path.name / "timing.json")
    here = hardware(torch.device("cpu"))
    alike = {name: made[name] for name in here} == here and "EPYC" in processor()
    return 0.0 if alike else 1e-2


@pytest.fixture
def layout_of_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient of the global average in the memory format that it had then. What it is now
    makes a batch norm add up in another order, so that the last digits are others.
    """
    monkeypatch.setattr("mobilenas.nn.pool._keep_format", lambda x: None)


def check_end(run: RunFolder, end: Path, module: str) -> None:
    """Weights and log are those with which the code of before ended."""
    close = tolerance(run)
    found = load_checkpoint(run.path / "checkpoint.pt")
    expected = current_checkpoint(load_checkpoint(end / "checkpoint.pt"))
    assert found[module].keys() == expected[module].keys()
    for name, tensor in expected[module].items():
        torch.testing.assert_close(found[module][name], tensor, rtol=close, atol=close, msg=name)
    assert found["progress"] == expected["progress"]
    rows, theirs = (read_jsonl(folder / "log.jsonl") for folder in (run.path, end))
    assert [row.keys() for row in rows] == [row.keys() for row in theirs]
    for row, other in zip(rows, theirs, strict=True):
        # Rates are now timm's: they differ in the last place of a float64.
        assert row == pytest.approx(other, rel=max(close, 1e-12))


def test_a_supernet_is_resumed_to_the_end_it_would_have_had(
    tmp_path: Path, layout_of_before: None
) -> None:
    folder = shutil.copytree(EARLIER / "supernet", tmp_path / "supernet")
    assert "model" in load_checkpoint(folder / "checkpoint.pt")
    stored = (folder / "run.json").read_bytes()
    run = open_supernet_run(folder)
    assert (run.settings.config.strategy, run.settings.config.warmup_epochs) == ("fair", 1)
    halfway = run.load_supernet()
    train_supernet(run)
    check_end(run.folder, EARLIER / "supernet-end", "module")
    assert any(
        not torch.equal(tensor, halfway.state_dict()[name])
        for name, tensor in run.load_supernet().state_dict().items()
    )
    assert (folder / "run.json").read_bytes() == stored
    rows = score_supernet(open_supernet_run(folder))
    assert [row["name"] for row in rows] == ["smallest", "median", "largest"]
    assert RunFolder.open(folder, "supernet").is_finished


def test_the_weights_of_a_finished_supernet_are_loaded(tmp_path: Path) -> None:
    folder = shutil.copytree(EARLIER / "supernet", tmp_path / "supernet")
    shutil.copy(EARLIER / "supernet-end" / "checkpoint.pt", folder)
    supernet = load_supernet(RunFolder.open(folder, "supernet"))
    expected = load_checkpoint(EARLIER / "supernet-end" / "checkpoint.pt")["model"]
    assert supernet.state_dict().keys() == expected.keys()
    assert all(torch.equal(x, expected[name]) for name, x in supernet.state_dict().items())


def test_a_network_is_resumed_to_the_end_it_would_have_had(
    tmp_path: Path, layout_of_before: None
) -> None:
    """Its images are mixed, with dropout and a moving average; it needs its supernet no more."""
    folder = shutil.copytree(EARLIER / "train", tmp_path / "train")
    run = open_network_run(folder)
    task = train_network(run)
    for module in ("module", "average"):
        check_end(run.folder, EARLIER / "train-end", module)
    expected = load_checkpoint(EARLIER / "train-end" / "checkpoint.pt")["progress"]
    assert task.state() == {name: pytest.approx(expected[name]) for name in task.state()}
    assert finish_train(run)["arch"] == "e2k3_e2k13"


def test_trainings_are_resumed_with_the_flags_that_they_were_started_with(tmp_path: Path) -> None:
    """Though `stream`, optimizer and others were no keys then, and a sampler is a strategy now."""
    folder = shutil.copytree(EARLIER / "supernet", tmp_path / "supernet")
    flags = read_json(folder / "run.json")["config"]
    assert {"sampler", "warmup"} <= flags.keys()
    config = SupernetConfig.model_validate(flags)
    assert config.stream is None
    resume_supernet_run(folder, {"seed": 3, "data": "digits", "config": config})
    with pytest.raises(BadInput, match=r"another config\.lr \("):
        again = config.model_copy(update={"lr": 0.3})
        resume_supernet_run(folder, {"config": again})
    folder = shutil.copytree(EARLIER / "train", tmp_path / "train")
    stored = open_network_run(folder)
    flags = read_json(folder / "run.json")["config"] | {"stream": None}
    given = NetworkConfig.model_validate(flags).resuming(stored.settings.config)
    stored.folder.check_unchanged({"config": given})


@pytest.mark.parametrize("name", ["supernet", "train"])
def test_a_checkpoint_of_before_that_lacks_a_part_is_refused(name: str, tmp_path: Path) -> None:
    folder = shutil.copytree(EARLIER / name, tmp_path / name)
    state = load_checkpoint(folder / "checkpoint.pt")
    torch.save({key: x for key, x in state.items() if key != "optimizer"}, folder / "checkpoint.pt")
    with pytest.raises(BadInput, match=r"checkpoint\.pt does not fit what .*run\.json says"):
        if name == "supernet":
            train_supernet(open_supernet_run(folder))
        else:
            train_network(open_network_run(folder))


def test_a_setting_that_is_wrong_is_named(tmp_path: Path) -> None:
    folder = shutil.copytree(EARLIER / "supernet", tmp_path / "supernet")
    edit(folder / "run.json", config={"lrr": 1})
    with pytest.raises(BadInput, match=r"run\.json: config\.lrr: there is no such key"):
        open_supernet_run(folder)


@pytest.mark.parametrize("name", ["search.json", "settings.json", "build.json", "check.json"])
def test_a_file_of_another_program_makes_no_run(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text('{"editor.fontSize": 12}')
    check_free(tmp_path)
