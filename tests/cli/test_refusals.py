"""What the commands refuse: one line that says what and where, an exit code, nothing written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import (
    MACRO_ARCH,
    ROOT,
    TINY,
    TINY_SPACE,
    Call,
    Job,
    check_refused,
    contents,
    edit,
    edit_settings,
    mobilenas,
)

SPACES = {
    "no space": (["space", "show", "s9"], ["space s9: 's9' is neither", "digits", "macro", "s1"]),
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
    "space": (["--space=s9"], ["space s9: 's9' is neither"]),
    "data": (["--data=/no/such/folder"], ["/no/such/folder", "digits"]),
    "preset": (["--preset=fast"], ["config fast: 'fast' is neither", "quick"]),
    "two presets": (["--config=quick", "--preset=default"], ["--config", "--preset", "one of"]),
    "preset no YAML": ([f"--preset={ROOT / 'LICENSE'}"], ["LICENSE is not YAML"]),
    "key": (["--set=lrr=0.1"], ["lrr", "did you mean lr?"]),
    "no value": (["--set=lr"], ["override 'lr' ", "key=value"]),
    "value": (["--set=lr=fast"], ["lr: "]),
    "value no YAML": (["--set=lr=[1"], ["override 'lr=[1'"]),
    "strategy": (["--strategy=random"], ["strategy: ", "fair"]),
    "bn": (["--bn=none"], ["bn: ", "shadow"]),
    "passes": (["--passes=0"], ["passes: "]),
    "endless": (["--passes=inf"], ["passes"]),
    "device": (["--set=device=banana"], ["device", "banana"]),
    "absent device": (["--set=device=cuda:99"], ["device", "cuda:99"]),
    "batch": (["--set=batch_size=201"], ["batch_size 201", "200"]),
    "validation": (["--set=validate_images=5000"], ["validate", "5000"]),
    "calibration": (["--set=calibrate_images=201"], ["calibrate", "201", "200"]),
    "strategy does not fit": (["--space=unfair.yaml", "--strategy=fair"], ["block 1", "uniform"]),
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
        (["--preset=default"], "config"),
        (["--config=default"], "config"),
        (["--set=lr=0.1"], "config"),
        (["--bn=shared"], "config"),
    ):
        check_refused(call(*resume, *other), str(job.supernet), f"another {word}")
    assert contents(job.folder) == before


DAMAGES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "run.json torn": (lambda f: (f / "run.json").write_text('{"space": {'), ["run.json", "JSON"]),
    "run.json empty": (lambda f: (f / "run.json").write_text(""), ["run.json", "JSON"]),
    "run.json a list": (lambda f: (f / "run.json").write_text("[]"), ["run.json"]),
    "no facts": (lambda f: edit(f / "run.json", facts=...), ["run.json", "facts"]),
    "no checksum": (lambda f: edit(f / "run.json", facts={}), ["run.json", "data_checksum"]),
    "kind": (lambda f: edit(f / "run.json", kind="x"), ["run.json", "kind", "supernet"]),
    "no seed": (lambda f: edit_settings(f, seed=...), ["run.json", "seed"]),
    "seed": (lambda f: edit_settings(f, seed="x"), ["run.json", "seed"]),
    "config": (lambda f: edit_settings(f, config={"lrr": 1}), ["run.json", "config.lrr"]),
    "space": (lambda f: edit_settings(f, space={"name": "x"}), ["run.json"]),
    "other data": (
        lambda f: edit(f / "run.json", facts={"data_checksum": 1}),
        ["digits", "images"],
    ),
    "data gone": (lambda f: edit_settings(f, data="/no/such"), ["/no/such"]),
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
    check_refused(done, "526k", "2.151M", code=3)
    assert not out.exists()


SEARCHES = {
    "size": (["--flops=20ms"], ["'20ms'"]),
    "sign": (["--params=-1M"], ["'-1M'"]),
    "no accuracy": (["--objectives=flops"], ["flops", "accuracy"]),
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
    for name in ("run.json", "evaluations.jsonl"):
        shutil.copy(job.search / name, folder)
    export = ("export", "--onnx", f"--run={folder}")
    check_refused(call(*export), str(folder), "no finished search")
    front = folder / "front.json"
    for content in ('{"front": [', "[]", "{}"):
        front.write_text(content)
        check_refused(call(*export), str(front))
    shutil.copy(job.search / "front.json", front)
    found = json.loads(front.read_text())
    found["settings"]["places"]["supernet"] = str(tmp_path / "gone")
    front.write_text(json.dumps(found))
    edit(folder / "run.json", parents={"supernet": str(tmp_path / "gone")}, relative={})
    check_refused(call(*export), str(tmp_path / "gone"), "--supernet")
    assert list(folder.glob("*.onnx")) == []
