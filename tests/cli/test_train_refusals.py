"""What `train` refuses: one line that says what and where, exit code 2, nothing written."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import (
    ALONE,
    MACRO_ARCH,
    TINY_ARCH,
    TINY_SPACE,
    Call,
    Job,
    Trained,
    check_refused,
    contents,
    edit,
    edit_settings,
)
from PIL import Image

from mobilenas.base.files import read_json

RUN = [f"--space={TINY_SPACE}", f"--arch={TINY_ARCH}"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with an image folder of three classes, a preset and little else."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name, count in (("three/a", 40), ("three/b", 40), ("three/c", 40), ("two/a", 2)):
        Path(name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(f"{name}/{number}.png")
    shutil.copytree("two/a", "two/b")
    Path("misspelt.yaml").write_text("epochs: 2\nlabel_smothing: 0.1\n")
    Path("list.yaml").write_text("[epochs]\n")
    return tmp_path


REFUSED = {
    "no arch": ([f"--space={TINY_SPACE}"], ["--arch", "--search", "--weights"]),
    "no space": ([f"--arch={TINY_ARCH}"], [TINY_ARCH, "--space"]),
    "unknown space": (["--space=s9", f"--arch={TINY_ARCH}"], ["s9", "digits", "s1"]),
    "space of cells": (["--space=nb101", f"--arch={TINY_ARCH}"], ["nb101", "cells"]),
    "arch of another space": ([f"--space={TINY_SPACE}", f"--arch={MACRO_ARCH}"], ["8 blocks", "6"]),
    "no candidate": ([f"--space={TINY_SPACE}", "--arch=x"], ["block 1", "'x'"]),
    "no search": ([*RUN, "--search=none"], ["none holds no finished search"]),
    "no supernet": ([*RUN, "--inherit=none"], ["none holds no run", "supernet-train"]),
    "no weights": ([*RUN, "--weights=none"], ["no saved network at none"]),
    "both": ([*RUN, "--weights=none", "--inherit=none"], ["--inherit and --weights"]),
    "data": ([*RUN, "--data=/no/such"], ["/no/such"]),
    "few images": (
        [*RUN, "--data=two", "--set=validate_images=null"],
        ["4 training images", "8 or more"],
    ),
    "preset": ([*RUN, "--preset=fast"], ["fast", "neither", "cifar10-quick", "imagenet-mnasnet"]),
    "preset a list": ([*RUN, "--preset=list.yaml"], ["list.yaml", "mapping"]),
    "key of the preset": (
        [*RUN, "--preset=misspelt.yaml"],
        ["misspelt.yaml", "label_smothing", "did you mean label_smoothing?"],
    ),
    "key": ([*RUN, "--set=epcohs=2"], ["epcohs", "did you mean epochs?"]),
    "key of a supernet": ([*RUN, "--set=passes=2"], ["passes"]),
    "value": ([*RUN, "--set=lr=fast"], ["lr: "]),
    "no epochs": ([*RUN, "--set=epochs=0"], ["epochs: "]),
    "odd": ([*RUN, "--set=mixup=0.2", "--set=batch_size=15"], ["batch_size 15", "even"]),
    "optimizer": ([*RUN, "--set=optimizer=sdg"], ["optimizer sdg", "did you mean sgd?"]),
    "policy": ([*RUN, "--set=auto_augment=strong"], ["auto_augment 'strong'", "rand-m9"]),
    "device": ([*RUN, "--set=device=banana"], ["device banana"]),
    "digits streamed": ([*RUN, "--set=stream=true"], ["digits", "memory"]),
    "teacher": ([*RUN, "--set=teacher=none"], ["no saved network at none"]),
    "teacher of timm": ([*RUN, "--set=teacher=timm:rasnet18"], ["timm:rasnet18"]),
    "teacher's file": ([*RUN, "--set=teacher=timm:resnet18@a.pt"], ["no such file: a.pt"]),
    "teacher supernet": ([*RUN, "--set=teacher=supernet"], ["supernet", "--inherit"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_trainings_are_refused_and_leave_nothing(name: str, here: Path, call: Call) -> None:
    arguments, words = REFUSED[name]
    before = contents(here)
    check_refused(call("train", *ALONE, "--out=run", *arguments), *words)
    check_refused(call("train", *ALONE, "--out=run", *arguments, "--json"), *words)
    assert contents(here) == before
    assert not Path("run").exists()


def test_weights_that_do_not_fit_are_refused(
    trained: Trained, job: Job, here: Path, call: Call
) -> None:
    saved, other = trained.folder / "network", TINY_ARCH.replace("e3k37", "e6k7")
    train = ("train", *ALONE, "--out=run")
    arch = (f"--arch={TINY_ARCH}", f"--inherit={job.supernet}")
    check_refused(call(*train, f"--weights={saved}", f"--arch={other}"), str(saved), other)
    check_refused(call(*train, f"--weights={saved}", f"--space={TINY_SPACE},width=0.5"), str(saved))
    check_refused(call(*train, *arch, "--data=three"), str(job.supernet), "another num_classes")
    wide = f"--space={TINY_SPACE},width=2"
    check_refused(call(*train, *arch, wide), str(job.supernet), "another width")
    macro = (f"--inherit={job.supernet}", "--space=macro", f"--arch={MACRO_ARCH}")
    check_refused(call(*train, *macro), str(job.supernet), "space than macro")
    teacher = f"--set=teacher={saved}"
    check_refused(call(*train, *RUN, "--data=three", teacher), str(saved), "other classes")
    check_refused(call(*train, f"--search={job.search}", "--pick=worst"), "--pick worst")
    assert not Path("run").exists()


def test_a_used_folder_is_refused_and_stays_as_it_is(
    trained: Trained, job: Job, call: Call
) -> None:
    for folder in (trained.folder, job.supernet):
        before = contents(folder)
        check_refused(call("train", *RUN, *ALONE, f"--out={folder}"), str(folder), "--resume")
        assert contents(folder) == before


OTHERS = {
    "space": [f"--space={TINY_SPACE},width=0.5"],
    "arch": ["--arch=" + TINY_ARCH.replace("e3k37", "e6k7")],
    "data": ["--data=cifar10:x"],
    "seed": ["--seed=4"],
    "preset": ["--preset=cifar10"],
    "--set": [*ALONE, "--set=lr=0.1"],
    "--resolution": ["--resolution=12"],
    "inherit": ["--inherit=x"],
    "weights": ["--weights=x"],
}


@pytest.mark.parametrize("name", OTHERS)
def test_resume_with_other_settings_is_refused(name: str, trained: Trained, call: Call) -> None:
    before = contents(trained.folder)
    outcome = call("train", "--resume", f"--out={trained.folder}", *OTHERS[name])
    word = {"preset": "another config", "--set": "another config", "--resolution": "16"}.get(
        name, f"another {name}"
    )
    check_refused(outcome, str(trained.folder), word)
    assert contents(trained.folder) == before


DAMAGES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "no run": (lambda f: (f / "run.json").unlink(), ["holds no run", "mobilenas train"]),
    "run.json torn": (lambda f: (f / "run.json").write_text('{"space": {'), ["run.json", "JSON"]),
    "arch": (lambda f: edit_settings(f, arch="e3k3"), ["1 blocks", "6"]),
    "config": (lambda f: edit_settings(f, config={"lrr": 1}), ["run.json", "config.lrr"]),
    "other data": (
        lambda f: edit(f / "run.json", facts={"data_checksum": 1}),
        ["digits", "images"],
    ),
    "no splits": (lambda f: (f / "splits.json").unlink(), ["splits.json"]),
    "split outside": (lambda f: edit(f / "splits.json", validate=[10**6]), ["splits", "validate"]),
    "checkpoint torn": (
        lambda f: (f / "checkpoint.pt").write_bytes((f / "checkpoint.pt").read_bytes()[:5000]),
        ["checkpoint.pt", "readable"],
    ),
    "checkpoint empty": (lambda f: (f / "checkpoint.pt").write_bytes(b""), ["checkpoint.pt"]),
    "log": (lambda f: (f / "log.jsonl").write_text("{}x\n"), ["log.jsonl line 1"]),
    "network torn": (
        lambda f: (f / "network" / "model.safetensors").write_bytes(b"torn"),
        ["network/model.safetensors", "readable"],
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_run_is_refused_by_name(
    name: str, trained: Trained, tmp_path: Path, call: Call
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained.folder, folder)
    damage, words = DAMAGES[name]
    damage(folder)
    before = contents(folder)
    check_refused(call("train", "--resume", f"--out={folder}"), *words)
    assert contents(folder) == before


def test_the_checkpoint_of_something_else_is_refused(
    trained: Trained, job: Job, tmp_path: Path, call: Call
) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    shutil.copytree(trained.folder, run)
    arch = TINY_ARCH.replace("e3k37", "e6k7")
    train = ("train", f"--space={TINY_SPACE}", f"--arch={arch}", *ALONE, "--set=epochs=0.1")
    assert call(*train, f"--out={other}").code == 0
    for source, words in ((other, "does not fit"), (job.supernet, "does not fit")):
        shutil.copy(source / "checkpoint.pt", run)
        before = contents(run)
        check_refused(call("train", "--resume", f"--out={run}"), "checkpoint.pt", words)
        assert contents(run) == before
    config = read_json(run / "run.json")["settings"]["config"]
    edit_settings(run, config=config | {"ema_decay": 0.9})
    shutil.copy(trained.folder / "checkpoint.pt", run)  # has no average
    check_refused(call("train", "--resume", f"--out={run}"), "checkpoint.pt", "fit")
