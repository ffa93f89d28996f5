"""Runs whose folders or images have moved: found where they are now, or asked for by an option."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from helpers import (
    ALONE,
    ENVIRONMENT,
    TINY,
    TINY_ARCH,
    TINY_SPACE,
    Call,
    Trained,
    check_refused,
    contents,
    torchrun,
)
from PIL import Image

SPACE = "--space=digits:resolution=16"
IMAGES = ["--data=photos", "--set=validate_images=12", "--set=limit=null"]


def draw(folder: Path, seed: int) -> None:
    """Thirty images of each of two classes."""
    rng = np.random.default_rng(seed)
    for name in "ab":
        (folder / name).mkdir(parents=True)
        for number in range(30):
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a project; each test moves a copy of it."""
    return tmp_path_factory.mktemp("made") / "proj"


@pytest.fixture
def project(made: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A supernet of images in the project, a search, and a training of what it found that has a
    teacher; both trainings were given relative paths. Its old folder is no more.
    """
    if not made.exists():
        draw(made / "photos", 0)
        monkeypatch.chdir(made)
        commands = (
            ["supernet-train", SPACE, *TINY, "--set=passes=1", *IMAGES],
            ["evolve", "--flops=1.2M", "--population=4", "--generations=2"],
            ["train", SPACE, f"--arch={TINY_ARCH}", *ALONE, *IMAGES, "--out=teacher"],
            ["train", "--search=runs/evolve", "--inherit=runs/supernet", *ALONE, *IMAGES[1:]],
        )
        for arguments in commands[:3]:
            outcome = call(*arguments)
            assert outcome.code == 0, outcome.err
        outcome = call(*commands[3], "--set=teacher=teacher/network")
        assert outcome.code == 0, outcome.err
        made.rename(made.with_name("kept"))
        made.mkdir()
    copy = tmp_path / "proj2"
    shutil.copytree(made.with_name("kept"), copy)
    monkeypatch.chdir(tmp_path)
    return copy


def unfinished(run: Path, *more: str) -> None:
    for name in ("result.json", "checkpoint.pt", *more):
        (run / name).unlink(missing_ok=True)


def test_a_project_that_moved_as_a_whole_works_from_anywhere(project: Path, call: Call) -> None:
    runs = project / "runs"
    for run in ("evolve", "train"):
        outcome = call("export", "--onnx", f"--run={runs / run}", f"--out={project / run}.onnx")
        assert outcome.code == 0, outcome.err
    weights = (runs / "train" / "last" / "model.safetensors").read_bytes()
    unfinished(runs / "train")  # before the first checkpoint: it needs supernet and teacher
    outcome = call("train", "--resume", f"--out={runs / 'train'}")
    assert outcome.code == 0, outcome.err
    assert (runs / "train" / "last" / "model.safetensors").read_bytes() == weights
    before = (runs / "evolve" / "evaluations.jsonl").read_bytes()
    outcome = call("evolve", "--resume", f"--out={runs / 'evolve'}")
    assert outcome.code == 0, outcome.err
    assert (runs / "evolve" / "evaluations.jsonl").read_bytes() == before
    outcome = call("supernet-train", "--resume", f"--out={runs / 'supernet'}")
    assert outcome.code == 0, outcome.err
    outcome = call("train", f"--search={runs / 'evolve'}", *ALONE, *IMAGES[1:], "--out=new")
    assert outcome.code == 0, outcome.err


def test_images_that_moved_alone_are_named_by_an_option(
    project: Path, tmp_path: Path, call: Call
) -> None:
    runs = project / "runs"
    (project / "photos").rename(tmp_path / "pictures")
    draw(tmp_path / "others", 1)
    truth = tmp_path / "truth.csv"
    archs = ["e3k3_e3k5_e3k3_e3k37_e3k35_e3k5", "e3k3_e3k3_e3k3_e3k3_e3k3_e3k3"]
    archs += ["e6k3_e6k3_e6k3_e6k3_e6k3_e6k3"]
    lines = (f"{arch},0.{number}" for number, arch in enumerate(archs, start=5))
    truth.write_text("\n".join(["arch,accuracy", *lines]))
    supernet = f"--supernet={runs / 'supernet'}"
    for arguments in (
        ("supernet-train", "--resume", f"--out={runs / 'supernet'}"),
        ("train", "--resume", f"--out={runs / 'train'}"),
        ("evolve", "--resume", f"--out={runs / 'evolve'}"),
        ("rank", supernet, f"--truth={truth}", f"--out={tmp_path / 'rank'}", "--no-zero-cost"),
        ("export", "--onnx", f"--run={runs / 'evolve'}"),
        ("export", "--onnx", f"--run={runs / 'train'}"),
    ):
        before = contents(project)
        check_refused(call(*arguments), "photos", "--data")
        check_refused(call(*arguments, "--data=others"), "images of", "others", "not those")
        assert contents(project) == before
        outcome = call(*arguments, "--data=pictures")
        assert outcome.code == 0, outcome.err


def test_a_supernet_that_moved_alone_is_named_by_an_option(
    project: Path, tmp_path: Path, call: Call
) -> None:
    runs = project / "runs"
    (runs / "supernet").rename(tmp_path / "there")
    data = f"--data={project / 'photos'}"  # which the supernet knows as seen from its old place
    unfinished(runs / "train")
    for option, arguments in (
        ("--supernet", ("export", "--onnx", f"--run={runs / 'evolve'}", data)),
        ("--supernet", ("evolve", "--resume", f"--out={runs / 'evolve'}", data)),
        ("--inherit", ("train", "--resume", f"--out={runs / 'train'}")),
    ):
        check_refused(call(*arguments), "supernet", option)
        outcome = call(*arguments, f"{option}=there")
        assert outcome.code == 0, outcome.err
    # The result of a search that was resumed says where the supernet was then.
    assert call("export", "--onnx", f"--run={runs / 'evolve'}", data).code == 0
    edited = tmp_path / "edited"
    shutil.copytree(tmp_path / "there", edited)
    spoil(edited / "checkpoint.pt")
    unfinished(runs / "train")
    check_refused(
        call("train", "--resume", f"--out={runs / 'train'}", "--inherit=edited"), "other weights"
    )
    export = ("export", "--onnx", f"--run={runs / 'evolve'}", data)
    check_refused(call(*export, "--supernet=edited"), "edited", "other weights")


def spoil(checkpoint: Path) -> None:
    from mobilenas.train.checkpoint import load_checkpoint, save_checkpoint

    state = load_checkpoint(checkpoint)
    for tensor in state["module"].values():
        tensor += 1
    save_checkpoint(checkpoint, state)


def test_a_teacher_that_moved_is_named_again(project: Path, tmp_path: Path, call: Call) -> None:
    (project / "teacher").rename(tmp_path / "professor")
    run = project / "runs" / "train"
    unfinished(run)
    resume = ("train", "--resume", f"--out={run}")
    check_refused(call(*resume), "teacher", "--set teacher=")
    same = [*ALONE, *IMAGES[1:]]
    outcome = call(*resume, *same, "--set=teacher=professor/network")
    assert outcome.code == 0, outcome.err


def test_all_processes_are_told_what_has_moved(project: Path, tmp_path: Path) -> None:
    runs = project / "runs"
    for there, here in {
        project / "teacher": "professor",
        project / "photos": "pictures",
        runs / "supernet": "there",
    }.items():
        there.rename(tmp_path / here)
    unfinished(runs / "train")
    given = [*ALONE, *IMAGES[1:], "--set=teacher=professor/network", "--inherit=there"]
    resume = torchrun("train", "--resume", f"--out={runs / 'train'}", "--data=pictures", *given)
    done = subprocess.run(resume, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_finished_supernet_needs_no_teacher(trained: Trained, tmp_path: Path, call: Call) -> None:
    teacher, run = tmp_path / "teacher", tmp_path / "run"
    shutil.copytree(trained.folder / "network", teacher)
    asked = (f"--space={TINY_SPACE}", *TINY, "--passes=1", f"--set=teacher={teacher}")
    outcome = call("supernet-train", *asked, f"--out={run}")
    assert outcome.code == 0, outcome.err
    shutil.rmtree(teacher)
    before = contents(run)
    outcome = call("supernet-train", "--resume", f"--out={run}")
    assert outcome.code == 0, outcome.err
    assert contents(run) == before
    unfinished(run)
    check_refused(call("supernet-train", "--resume", f"--out={run}"), "teacher", "--set teacher=")
