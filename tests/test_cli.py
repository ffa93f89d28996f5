"""The command line as a user meets it: what it prints, what it refuses and how, how it ends.

The main job runs once, in processes of its own; most refusals are tried in this process.
"""

import json
import logging
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import typer.main
from helpers import (
    ENVIRONMENT,
    ROOT,
    TINY,
    TINY_SPACE,
    command,
    contents,
    mobilenas,
    mobilenas_json,
)

import mobilenas as package
from mobilenas import cli, pipeline
from mobilenas.config import SupernetConfig, load_supernet_config
from mobilenas.cost import CostModel
from mobilenas.space import list_spaces, load_space

HEAVY = ("torch", "torchvision", "timm", "pymoo", "matplotlib", "sklearn", "onnx", "onnxruntime")
MACRO_ARCH = "id_e3k3_e6k5_id_e3k3_e3k3_e6k5_id"
LIMIT = 1_200_000


@dataclass(frozen=True)
class Outcome:
    """How a command ended, and what it left on the two streams."""

    code: int
    out: str
    err: str


Call = Callable[..., Outcome]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run a command in this process. What `main` does not catch is raised: it is a traceback."""

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        level = logging.root.level
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["mobilenas", *map(str, arguments)])
            patch.setattr(cli, "tune_process", lambda: None)
            patch.setattr(logging.root, "handlers", [])  # pytest's, in whose place main puts one
            patch.setenv("COLUMNS", "200")
            with pytest.raises(SystemExit) as stopped:
                cli.main()
        logging.root.setLevel(level)
        code = stopped.value.code
        assert code is None or isinstance(code, int)
        return Outcome(code or 0, *capsys.readouterr())

    return run


def check_refused(outcome: Outcome, *words: str, code: int = 2) -> None:
    """One line on stderr that says what and where, nothing on stdout."""
    assert outcome.code == code, outcome
    assert outcome.out == ""
    assert outcome.err.startswith("mobilenas: ")
    assert outcome.err.count("\n") == 1, outcome.err
    assert [word for word in words if word not in outcome.err] == [], outcome.err


@dataclass(frozen=True)
class Job:
    """A small supernet, a search through it and an export, with what each command printed."""

    folder: Path
    trained: dict[str, Any]
    searched: dict[str, Any]
    exported: dict[str, Any]

    @property
    def supernet(self) -> Path:
        return self.folder / "supernet"

    @property
    def search(self) -> Path:
        return self.folder / "evolve"


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("job")
    supernet, search = folder / "supernet", folder / "evolve"
    train = ("supernet-train", f"--space={TINY_SPACE}", *TINY, "--set=passes=3")
    return Job(
        folder,
        mobilenas_json(*train, f"--out={supernet}"),
        mobilenas_json(
            *("evolve", f"--supernet={supernet}", "--flops=1.2M", "--params=90k"),
            *("--population=6", "--generations=3", f"--out={search}"),
        ),
        mobilenas_json("export", "--onnx", f"--run={search}", "--pick=knee"),
    )


# --- help and start -----------------------------------------------------------------------------


def leaves() -> dict[str, Any]:
    """Every command by its words, such as `space show`."""
    found: dict[str, Any] = {}

    def walk(group: Any, words: str) -> None:
        for name, entry in group.commands.items():
            if hasattr(entry, "commands"):
                walk(entry, f"{words}{name} ")
            else:
                found[f"{words}{name}"] = entry

    walk(typer.main.get_command(cli.app), "")
    return found


def test_the_commands_are_there() -> None:
    wanted = {"space list", "space show", "arch sample", "arch cost", "supernet-train"}
    assert wanted | {"evolve", "export", "quickstart"} <= leaves().keys()


@pytest.mark.parametrize("words", leaves())
def test_help_shows_an_example(words: str, call: Call) -> None:
    outcome = call(*words.split(), "--help")
    assert (outcome.code, outcome.err) == (0, "")
    example = re.search(r"Example: mobilenas (.*)", outcome.out)
    assert example
    assert example[1].startswith(words)
    options = {name for p in leaves()[words].params for name in p.opts if name.startswith("-")}
    used = {word for word in example[1].split() if word.startswith("-")}
    assert used <= options
    assert "--json" in options


@pytest.mark.parametrize("words", ["space list", "space show", "arch sample", "arch cost"])
def test_the_example_works(words: str, call: Call) -> None:
    example = re.search(r"Example: mobilenas (.*)", leaves()[words].help)
    assert example
    outcome = call(*example[1].split())
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out


@pytest.mark.parametrize("words", ["", "evolve"])
def test_help_says_what_flops_are(words: str, call: Call) -> None:
    assert "multiply-adds" in call(*words.split(), "--help").out.lower()


def test_version(call: Call) -> None:
    assert call("--version") == Outcome(0, package.__version__ + "\n", "")


@pytest.mark.parametrize(
    "arguments",
    [["nope"], ["space", "nope"], ["arch", "sample", "s1", "-n", "0"], ["evolve", "--seed", "-1"]],
)
def test_words_that_are_no_command_exit_with_2(arguments: list[str], call: Call) -> None:
    outcome = call(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert arguments[-1] in outcome.err or arguments[-2] in outcome.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["-c", "import mobilenas, mobilenas.space, mobilenas.cost"],
        ["-m", "mobilenas", "--help"],
        ["-m", "mobilenas", "supernet-train", "--help"],
        ["-m", "mobilenas", "arch", "cost", "macro", MACRO_ARCH],
    ],
)
def test_nothing_heavy_is_imported(arguments: list[str]) -> None:
    python = [sys.executable, "-X", "importtime", *arguments]
    done = subprocess.run(python, capture_output=True, text=True, check=True, env=ENVIRONMENT)
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "mobilenas" in modules
    assert sorted({module.partition(".")[0] for module in modules} & set(HEAVY)) == []


# --- spaces and archs ---------------------------------------------------------------------------


def test_space_list(call: Call) -> None:
    described = json.loads(call("space", "list", "--json").out)
    assert list(described) == list_spaces()
    lines = call("space", "list").out.splitlines()
    for line, (name, text) in zip(lines, described.items(), strict=True):
        assert line.split()[0] == name
        assert line.endswith(text)


def test_space_show(call: Call) -> None:
    outcome = call("space", "show", "s1", "--flops", "0.5G", "--params", "5M", "--json")
    facts = json.loads(outcome.out)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.count("\n") == 1
    space, cost_model = load_space("s1"), CostModel(load_space("s1"))
    assert facts["num_archs"] == space.num_archs
    assert facts["choices"] == [len(block.candidates) for block in space.blocks]
    for name in ("flops", "params"):
        extent = cost_model.range(name)
        assert facts[name] == {
            "minimum": extent.minimum,
            "median": extent.median,
            "maximum": extent.maximum,
        }
        assert extent.minimum < extent.median < extent.maximum
    assert facts["limits"] == {"flops": 500_000_000, "params": 5_000_000}
    assert facts["feasible_share"] == cost_model.feasible_share(facts["limits"])
    text = call("space", "show", "s1").out
    assert all(f"{block.name} " in text for block in space.layers)


def test_arch_sample(call: Call) -> None:
    outcome = call("arch", "sample", "s1", "-n", "5", "--seed", "3")
    archs = outcome.out.splitlines()
    space = load_space("s1")
    assert [str(space.parse(arch)) for arch in archs] == archs
    assert len(set(archs)) == 5
    as_json = call("arch", "sample", "s1", "-n", "5", "--seed", "3", "--json").out
    assert json.loads(as_json) == {"space": "s1", "archs": archs}
    assert call("arch", "sample", "s1", "-n", "5", "--seed", "4").out != outcome.out
    assert call("arch", "sample", "s1", "-n", "2", "--seed", "3").out.splitlines() == archs[:2]


def test_arch_cost(call: Call) -> None:
    cost_model = CostModel(load_space("macro"))
    arch = cost_model.space.parse(MACRO_ARCH)
    values = {"flops": cost_model.flops(arch), "params": cost_model.params(arch)}
    outcome = call("arch", "cost", "macro", MACRO_ARCH, "--json")
    assert json.loads(outcome.out) == values | {"latency_ms": {}}
    text = dict(line.split() for line in call("arch", "cost", "macro", MACRO_ARCH).out.splitlines())
    assert text.keys() == values.keys()
    narrow = json.loads(call("arch", "cost", "macro:width=0.5", MACRO_ARCH, "--json").out)
    assert narrow["flops"] < values["flops"] / 2


# --- the main job -------------------------------------------------------------------------------


def test_training_reports_three_archs(job: Job) -> None:
    result = json.loads((job.supernet / "result.json").read_text())
    assert job.trained == {"run": str(job.supernet), "validation": result["validation"]}
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
    assert job.searched == {
        "run": str(job.search),
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

    def beaten(row: dict[str, Any]) -> bool:
        """Whether another arch is as good in both objectives and better in one."""
        mine = (row["flops"], -row["accuracy"])
        others = [(other["flops"], -other["accuracy"]) for other in rows]
        return any(o != mine and o[0] <= mine[0] and o[1] <= mine[1] for o in others)

    assert {row["arch"] for row in front} == {row["arch"] for row in rows if not beaten(row)}
    assert [row["flops"] for row in front] == sorted(row["flops"] for row in front)
    assert (job.search / "front.png").read_bytes().startswith(b"\x89PNG")
    table = (job.search / "history.csv").read_text().splitlines()
    assert [line.split(",")[1] for line in table] == ["arch", *(row["arch"] for row in rows)]


def test_the_onnx_file_is_the_network_and_says_what_it_is(job: Job) -> None:
    import onnxruntime
    import torch

    from mobilenas.data import load_data
    from mobilenas.export.onnx import normalise
    from mobilenas.search.evaluate import SupernetEvaluator
    from mobilenas.train.run import open_run

    path = Path(job.exported["path"])
    front = json.loads((job.search / "front.json").read_text())["front"]
    chosen = pipeline.pick_arch(front, "knee")
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

    run = open_run(job.supernet)
    network = SupernetEvaluator(run).network(run.space.parse(chosen))
    with torch.inference_mode():
        expected = network(torch.from_numpy(images)).numpy()
    assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()
    assert all(check["top1_agreement"] == 1 for check in job.exported["verification"]["parity"])


def test_neither_training_nor_search_sees_a_test_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    from mobilenas.data import load_data
    from mobilenas.train import run

    class Forbidden:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(f"the {name} of the test images was asked for")

    def load(source: str, resolution: int) -> Any:
        return replace(load_data(source, resolution), test=Forbidden())

    monkeypatch.setattr(run, "load_data", load)
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
    assert f"mobilenas export --onnx --run {search}" in evolve.out
    with pytest.raises(AssertionError, match="test images"):
        call("export", "--onnx", f"--run={search}")


def test_quickstart_does_the_whole_job_and_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    tiny = load_supernet_config("quick", [item.removeprefix("--set=") for item in TINY[1:]])
    evolve = pipeline.evolve

    def small_search(*arguments: Any, **settings: Any) -> Any:
        return evolve(*arguments, **settings | {"population": 4, "generations": 2})

    monkeypatch.setattr(
        pipeline, "load_supernet_config", lambda *_: tiny.model_copy(update={"passes": 0.5})
    )
    monkeypatch.setattr(pipeline, "load_space", lambda _: load_space(TINY_SPACE))
    monkeypatch.setattr(pipeline, "evolve", small_search)
    out = tmp_path / "quickstart"
    first = call("quickstart", f"--out={out}")
    assert first.code == 0, first.err
    (model,) = (out / "evolve").glob("*.onnx")
    assert str(model) in first.out
    assert "top-1 agreement 100.0 %" in first.out
    before = contents(out)
    again = call("quickstart", f"--out={out}", "--json")
    report = json.loads(again.out)
    assert report["run"] == str(out)
    assert report["export"]["path"] == str(model)
    assert contents(out) == before


# --- refusals -----------------------------------------------------------------------------------

SPACES = {
    "no space": (["space", "show", "s9"], ["no space 's9'", "digits", "macro", "s1"]),
    "no override": (["space", "show", "s1:width"], ["space s1:width", "key=value"]),
    "unknown key": (["space", "show", "s1:widht=2"], ["space s1:widht=2", "widht: "]),
    "wrong value": (["arch", "sample", "s1:width=wide"], ["s1:width=wide", "width: "]),
    "no section": (["arch", "sample", "s1:stem.x.y=1"], ["s1:stem.x.y=1", "'x'"]),
    "value no YAML": (["space", "show", "s1:width=[1"], ["space s1:width=[1", "width"]),
    "space no YAML": (["space", "show", str(ROOT / "LICENSE")], ["LICENSE is not YAML"]),
    "size": (["space", "show", "s1", "--flops", "20ms"], ["'20ms'", "500M"]),
    "size of params": (["space", "show", "s1", "--params", "-5M"], ["'-5M'"]),
    "too few blocks": (["arch", "cost", "macro", "id_e3k3"], ["2 blocks", "macro has 8"]),
    "no candidate": (["arch", "cost", "macro", "id_x"], ["arch block 2", "'x'"]),
    "candidate of others": (
        ["arch", "cost", "macro", MACRO_ARCH.replace("e6k5_id", "e6k7_id", 1)],
        ["arch block 3", "7", "e6k7"],
    ),
    "empty arch": (["arch", "cost", "macro", ""], ["arch block 1", "''"]),
}


@pytest.mark.parametrize("name", SPACES)
def test_bad_spaces_and_archs_are_refused(name: str, call: Call) -> None:
    arguments, words = SPACES[name]
    check_refused(call(*arguments), *words)
    if arguments[0] == "arch" or "size" not in name:
        check_refused(call(*arguments, "--json"), *words)


TRAINING = {
    "space": (["--space=s9"], ["no space 's9'"]),
    "data": (["--data=/no/such/folder"], ["/no/such/folder", "digits"]),
    "config": (["--config=fast"], ["no config 'fast'", "quick"]),
    "config no YAML": ([f"--config={ROOT / 'LICENSE'}"], ["LICENSE is not YAML"]),
    "key": (["--set=lrr=0.1"], ["lrr", *SupernetConfig.model_fields]),
    "no value": (["--set=lr"], ["--set lr", "key=value"]),
    "value": (["--set=lr=fast"], ["lr: "]),
    "value no YAML": (["--set=lr=[1"], ["--set lr=[1"]),
    "sampler": (["--sampler=random"], ["sampler: ", "fair"]),
    "bn": (["--bn=none"], ["bn: ", "shadow"]),
    "passes": (["--passes=0"], ["passes: "]),
    "endless": (["--passes=inf"], ["passes"]),
    "device": (["--set=device=banana"], ["device", "banana"]),
    "absent device": (["--set=device=cuda:99"], ["device", "cuda:99"]),
    "batch": (["--set=batch_size=201"], ["batch_size 201", "200"]),
    "validation": (["--set=validate_images=5000"], ["validate", "5000"]),
    "calibration": (["--set=calibrate_images=201"], ["calibrate", "201", "200"]),
    "sampler does not fit": (["--space=unfair.yaml", "--sampler=fair"], ["block 1", "uniform"]),
}


@pytest.mark.parametrize("name", TRAINING)
def test_bad_training_is_refused_and_leaves_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    monkeypatch.chdir(tmp_path)
    unfair = "name: unfair\ndescription: no full product\nresolution: 16\nnum_classes: 10\n"
    unfair += "stem: {channels: 8}\ncandidates: [e3k3, e3k35, e6k7]\n"
    unfair += "stages: [{channels: 8}]\nhead: {channels: 8}\n"
    Path("unfair.yaml").write_text(unfair)
    arguments, words = TRAINING[name]
    outcome = call(
        *("supernet-train", f"--space={TINY_SPACE}", *TINY, "--passes=0.1", "--out=run"), *arguments
    )
    check_refused(outcome, *words)
    assert not Path("run").exists()


def test_a_used_folder_is_refused_and_stays_as_it_is(job: Job, call: Call) -> None:
    before = contents(job.folder)
    check_refused(
        call("supernet-train", f"--space={TINY_SPACE}", *TINY, f"--out={job.supernet}"),
        *(str(job.supernet), "--resume"),
    )
    check_refused(
        call("evolve", f"--supernet={job.supernet}", "--flops=1.2M", f"--out={job.search}"),
        *(str(job.search), "--resume"),
    )
    check_refused(
        call("evolve", "--flops=1.1M", f"--out={job.search}", "--resume"),
        *(str(job.search), "limits"),
    )
    assert contents(job.folder) == before


def test_resume_of_a_finished_search_needs_no_other_flag(job: Job, call: Call) -> None:
    before = contents(job.folder)
    assert call("evolve", f"--out={job.search}", "--resume").code == 0
    assert contents(job.folder) == before


def test_a_path_that_is_a_file_is_refused(tmp_path: Path, job: Job, call: Call) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    small = ("--flops=1.2M", "--population=2", "--generations=1")
    outcomes = [
        call("supernet-train", f"--space={TINY_SPACE}", *TINY, "--passes=0.1", f"--out={file}"),
        call("evolve", f"--supernet={job.supernet}", *small, f"--out={file}"),
        call("evolve", f"--supernet={file}", *small, f"--out={tmp_path / 'evolve'}"),
        call("export", "--onnx", f"--run={file}"),
    ]
    assert [outcome.code for outcome in outcomes] == [2] * 4
    for outcome in outcomes:
        assert str(file) in outcome.err.splitlines()[-1]
    assert contents(tmp_path) == {"file": b"mine"}


def test_resume_takes_the_settings_of_the_run_and_no_others(job: Job, call: Call) -> None:
    resume = ("supernet-train", "--resume", f"--out={job.supernet}")
    before = contents(job.folder)
    same = [f"--space={TINY_SPACE}", *TINY, "--passes=3", "--seed=0", "--data=digits"]
    outcome = call(*resume, *same, "--json")
    assert (outcome.code, json.loads(outcome.out)) == (0, job.trained)
    for other, word in (
        (["--space=digits"], "space"),
        (["--data=cifar10:x"], "data"),
        (["--seed=1"], "seed"),
        (["--config=default"], "config"),
        (["--set=lr=0.1"], "config"),
        (["--bn=shared"], "config"),
    ):
        check_refused(call(*resume, *other), str(job.supernet), f"another {word}")
    assert contents(job.folder) == before


def test_resume_of_nothing_is_refused(tmp_path: Path, call: Call) -> None:
    missing = tmp_path / "none"
    check_refused(call("supernet-train", "--resume", f"--out={missing}"), str(missing), "no")
    assert not missing.exists()


def edit(path: Path, **changes: Any) -> None:
    """Replace keys of a JSON file; ... takes one out."""
    value = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in value.items() if v is not ...}))


DAMAGES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "run.json torn": (lambda f: (f / "run.json").write_text('{"space": {'), ["run.json", "JSON"]),
    "run.json empty": (lambda f: (f / "run.json").write_text(""), ["run.json", "JSON"]),
    "run.json a list": (lambda f: (f / "run.json").write_text("[]"), ["run.json"]),
    "no seed": (lambda f: edit(f / "run.json", seed=...), ["run.json", "seed"]),
    "seed": (lambda f: edit(f / "run.json", seed="x"), ["run.json", "seed"]),
    "config": (lambda f: edit(f / "run.json", config={"lrr": 1}), ["run.json", "config.lrr"]),
    "space": (lambda f: edit(f / "run.json", space={"name": "x"}), ["run.json"]),
    "other data": (lambda f: edit(f / "run.json", data_checksum=1), ["digits", "images"]),
    "data gone": (lambda f: edit(f / "run.json", data="/no/such"), ["/no/such"]),
    "no splits": (lambda f: (f / "splits.json").unlink(), ["splits.json"]),
    "splits torn": (lambda f: (f / "splits.json").write_text("{"), ["splits.json", "JSON"]),
    "splits a list": (lambda f: (f / "splits.json").write_text("[]"), ["splits"]),
    "split": (lambda f: edit(f / "splits.json", validate=[1, "x"]), ["splits", "validate"]),
    "split outside": (lambda f: edit(f / "splits.json", validate=[10**6]), ["splits", "validate"]),
    "weights torn": (
        lambda f: (f / "checkpoint.pt").write_bytes((f / "checkpoint.pt").read_bytes()[:5000]),
        ["checkpoint.pt", "readable"],
    ),
    "weights empty": (lambda f: (f / "checkpoint.pt").write_bytes(b""), ["checkpoint.pt"]),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_supernet_is_refused_by_name(
    name: str, job: Job, tmp_path: Path, call: Call
) -> None:
    folder = tmp_path / "supernet"
    shutil.copytree(job.supernet, folder)
    damage, words = DAMAGES[name]
    damage(folder)
    before = contents(tmp_path)
    check_refused(call("supernet-train", "--resume", f"--out={folder}"), *words)
    search = call("evolve", f"--supernet={folder}", "--flops=1.2M", f"--out={tmp_path / 'evolve'}")
    assert search.code == 2
    assert search.err.splitlines()[-1].startswith("mobilenas: ")
    assert [word for word in words if word not in search.err.splitlines()[-1]] == []
    assert contents(tmp_path) == before


def test_a_damaged_log_is_refused_by_name(job: Job, tmp_path: Path, call: Call) -> None:
    folder = tmp_path / "supernet"
    shutil.copytree(job.supernet, folder)
    (folder / "log.jsonl").write_text("{}x\n" + (folder / "log.jsonl").read_text())
    check_refused(call("supernet-train", "--resume", f"--out={folder}"), "log.jsonl line 1")


def test_a_search_without_a_supernet_is_refused(tmp_path: Path, call: Call) -> None:
    out = tmp_path / "evolve"
    outcome = call("evolve", "--flops=1M", f"--supernet={tmp_path / 'none'}", f"--out={out}")
    check_refused(outcome, str(tmp_path / "none"), "mobilenas supernet-train")
    assert not out.exists()


@pytest.mark.parametrize("limit", ["--flops=100k", "--flops=525k", "--params=1k", "--flops=0"])
def test_an_infeasible_budget_exits_with_3_and_the_range(
    limit: str, job: Job, tmp_path: Path, call: Call
) -> None:
    outcome = call("evolve", f"--supernet={job.supernet}", limit, f"--out={tmp_path / 'evolve'}")
    cost = limit.partition("=")[0].removeprefix("--")
    extent = ["526k", "2.151M"] if cost == "flops" else ["35.41k", "118k"]
    check_refused(outcome, cost, TINY_SPACE, *extent, code=3)
    assert list(tmp_path.iterdir()) == []


def test_an_infeasible_budget_in_a_process(job: Job, tmp_path: Path) -> None:
    out = tmp_path / "evolve"
    done = mobilenas("evolve", f"--supernet={job.supernet}", "--flops=1k", f"--out={out}", "--json")
    check_refused(Outcome(done.returncode, done.stdout, done.stderr), "526k", "2.151M", code=3)
    assert not out.exists()


SEARCHES = {
    "size": (["--flops=20ms"], ["'20ms'"]),
    "sign": (["--params=-1M"], ["'-1M'"]),
    "no accuracy": (["--objectives=flops"], ["flops", "accuracy"]),
    "no cost": (["--objectives=accuracy"], ["cost", "flops", "params"]),
    "unknown cost": (["--objectives=accuracy,watts"], ["'watts'", "flops", "params"]),
    "twice": (["--objectives=accuracy,flops,flops"], ["flops", "distinct"]),
    "empty": (["--objectives="], ["objectives"]),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_bad_searches_are_refused_and_leave_nothing(
    name: str, job: Job, tmp_path: Path, call: Call
) -> None:
    arguments, words = SEARCHES[name]
    out = tmp_path / "evolve"
    check_refused(call("evolve", f"--supernet={job.supernet}", *arguments, f"--out={out}"), *words)
    assert not out.exists()


def test_export_needs_a_format(job: Job, call: Call) -> None:
    check_refused(call("export", f"--run={job.search}"), "--onnx")


OTHER_ARCH = "e3k3_e3k3_e3k3_e3k3_e3k3"
EXPORTS = {
    "pick": (["--pick=worst"], ["--pick worst", "best", "knee", "cheapest"]),
    "arch of another space": ([f"--arch={OTHER_ARCH}"], ["5 blocks", "has 6"]),
    "kernel": ([f"--arch={OTHER_ARCH}_e3k9"], ["arch block 6", "9"]),
    "identity": ([f"--arch={OTHER_ARCH}_id"], ["arch block 6", "identity"]),
    "text": (["--arch=x"], ["arch block 1", "'x'"]),
    "target": (["--out=none/a.onnx"], ["none/a.onnx", "none is not a folder"]),
    "target a folder": (["--out=."], ["folder"]),
    "run": (["--run=none"], ["none", "mobilenas evolve"]),
}


@pytest.mark.parametrize("name", EXPORTS)
def test_bad_exports_are_refused_and_leave_nothing(
    name: str, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    monkeypatch.chdir(tmp_path)
    before = contents(job.folder)
    arguments, words = EXPORTS[name]
    check_refused(call("export", "--onnx", f"--run={job.search}", *arguments), *words)
    assert contents(job.folder) == before
    assert list(tmp_path.iterdir()) == []


def test_export_of_an_unfinished_or_damaged_search_is_refused(
    job: Job, tmp_path: Path, call: Call
) -> None:
    folder = tmp_path / "evolve"
    folder.mkdir()
    for name in ("search.json", "evaluations.jsonl"):
        shutil.copy(job.search / name, folder)
    export = ("export", "--onnx", f"--run={folder}")
    check_refused(call(*export), str(folder), "no finished search")
    front = folder / "front.json"
    for content in ('{"front": [', "[]", "{}"):
        front.write_text(content)
        check_refused(call(*export), str(front))
    shutil.copy(job.search / "front.json", front)
    found = json.loads(front.read_text())
    found["settings"]["evaluator"]["supernet"] = str(tmp_path / "gone")
    front.write_text(json.dumps(found))
    check_refused(call(*export), str(tmp_path / "gone"))
    assert list(folder.glob("*.onnx")) == []


def test_an_interrupt_says_how_to_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "supernet"
    train = ("supernet-train", f"--space={TINY_SPACE}", *TINY, "--passes=1000", f"--out={folder}")
    process = subprocess.Popen(
        command(*train), env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        try:
            deadline = time.monotonic() + 60
            while not (folder / "checkpoint.pt").exists() and time.monotonic() < deadline:
                assert process.poll() is None
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert out == ""
    assert err.splitlines()[-1] == "mobilenas: interrupted; --resume continues"
    assert "Traceback" not in err
