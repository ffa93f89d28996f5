"""detect train, eval, predict and export through the command line, on a few digit scenes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import ENVIRONMENT, Call, check_refused, contents, edit
from PIL import Image

from mobilenas.data.scenes import make_scenes

pytest.importorskip("mmdet", reason="needs pip install '.[detect]'")

SPACE, ARCH = "mobilenetv2:width=0.1", "_".join(["e3k3"] * 16)
OPTIONS = [
    "model.neck.out_channels=16",
    "model.bbox_head.in_channels=16",
    "model.bbox_head.feat_channels=16",
    "model.bbox_head.stacked_convs=1",
    "train_dataloader.dataset.pipeline.2.scale=(64,64)",
    "test_dataloader.dataset.pipeline.1.scale=(64,64)",
    "val_dataloader.dataset.pipeline.1.scale=(64,64)",
    "train_dataloader.batch_size=3",
    "train_cfg.max_epochs=2",
    "param_scheduler.0.end=2",
    "model.test_cfg.score_thr=0.0",  # else such a detector finds nothing
]
TINY = ["retinanet_quick", f"--space={SPACE}", f"--arch={ARCH}", "--seed=3"]
TINY += [f"--set={option}" for option in OPTIONS[:-1]]
TINY += [f"--cfg-options={OPTIONS[-1]}"]  # the name that mmdet gives it


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "few"
    make_scenes(folder, train=6, val=3)
    return folder


@pytest.fixture(scope="module")
def detector(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A trained run, and its result; tests read it and leave it as it is."""
    from mobilenas.detect.detector import DetectSettings, create_detect_run
    from mobilenas.detect.runner import train_detector

    folder = tmp_path_factory.mktemp("detector") / "run"
    settings = DetectSettings(
        config="retinanet_quick",
        space=SPACE,
        arch=ARCH,
        data=str(scenes),
        options=tuple(OPTIONS),
        seed=3,
    )
    return folder, train_detector(create_detect_run(folder, settings))


def checkpoint(folder: Path) -> dict[str, Any]:
    import torch

    # Plain data: no class of mmengine is needed to read it.
    return torch.load(folder / "checkpoint.pth", weights_only=True)


def test_a_training_ends_with_a_result(detector: tuple[Path, dict[str, Any]]) -> None:
    folder, result = detector
    assert json.loads((folder / "result.json").read_text()) == result
    assert (result["arch"], result["input"]) == (ARCH, [64, 64])
    flops = result["flops"]
    assert flops["total"] == flops["backbone"] + flops["neck"] + flops["head"] > 0
    assert 0 <= result["AP"] <= result["AP50"] <= 1
    assert sorted(result["classes"]) == list("0123456789")
    assert json.loads((folder / "timing.json").read_text())["seconds"] > 0
    # The rate falls from 1e-3 to 1e-5, however few the epochs are: this is that of the last of four
    # steps, on a cosine.
    (rate,) = {group["lr"] for group in checkpoint(folder)["optimizer"]["param_groups"]}
    assert rate == pytest.approx(1e-5 + 9.9e-4 * (1 + np.cos(3 / 4 * np.pi)) / 2)


def test_an_opened_run_has_the_config_that_it_was_created_with(
    scenes: Path, tmp_path: Path
) -> None:
    from mobilenas.detect.detector import DetectSettings, create_detect_run, open_detect_run

    # Neither what is for a backbone without weights nor what the data say comes before these.
    options = ("model.backbone.norm_eval=True", "val_dataloader.dataset.metainfo.classes=['a']")
    settings = DetectSettings(
        config="retinanet_quick", space=SPACE, arch=ARCH, data=str(scenes), options=options
    )
    created = create_detect_run(tmp_path, settings).config
    assert created.model.backbone.norm_eval is True
    assert open_detect_run(tmp_path).config.to_dict() == created.to_dict()


def test_a_killed_training_continues_to_the_same_weights(
    detector: tuple[Path, dict[str, Any]],
    scenes: Path,
    tmp_path: Path,
    call: Call,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mobilenas.detect.hooks import CheckpointHook

    save = CheckpointHook._save

    def save_and_stop(self: Any, runner: Any) -> None:
        save(self, runner)
        raise KeyboardInterrupt

    out = tmp_path / "run"
    monkeypatch.chdir(scenes.parent)
    with monkeypatch.context() as patch:
        patch.setattr(CheckpointHook, "_save", save_and_stop)
        stopped = call("detect", "train", *TINY, f"--data={scenes.name}", f"--out={out}")
    assert stopped.code == 130, stopped.err
    assert not (out / "result.json").exists()
    check_refused(call("detect", "train", *TINY, f"--out={out}"), "already holds a run")
    resume = ("detect", "train", "--resume", f"--out={out}")
    check_refused(call(*resume, "--seed=4"), "another seed")
    check_refused(call(*resume, f"--data={tmp_path}"), "there is no")
    check_refused(call(*resume, "--data=digits"), "another data")
    moved = tmp_path / "moved"
    shutil.copytree(scenes, moved)
    monkeypatch.chdir(tmp_path)
    done = call(*resume, "--data=./moved", "--json")
    edit(moved / "val.json", annotations=[])
    check_refused(call(*resume, f"--data={moved}"), "another data")
    assert done.code == 0, done.err
    one, other = (checkpoint(run)["state_dict"] for run in (detector[0], out))
    assert one.keys() == other.keys()
    assert [key for key in one if not one[key].equal(other[key])] == []
    expected = detector[1] | {"run": str(out)}
    assert json.loads(done.out) == expected
    assert json.loads(call(*resume, "--json").out) == expected
    # The log of mmengine stays in the folder.
    assert "mmengine" not in done.err and "Epoch(train)" not in done.err
    logs = [path.read_text() for path in (out / "mmengine").glob("*/*.log")]
    assert len(logs) == 2 and all("Epoch(train)" in log for log in logs)


def test_a_trained_detector_is_evaluated_and_finds(
    detector: tuple[Path, dict[str, Any]], scenes: Path, tmp_path: Path, call: Call
) -> None:
    folder, result = detector
    evaluated = json.loads(call("detect", "eval", folder, "--json").out)
    assert evaluated.pop("run") == str(folder)
    assert evaluated == {key: result[key] for key in evaluated}
    assert "AP50" in call("detect", "eval", folder).out
    moved = tmp_path / "moved"
    shutil.copytree(scenes, moved)
    again = json.loads(call("detect", "eval", folder, f"--data={moved}", "--json").out)
    assert again == evaluated | {"run": str(folder)}
    edit(moved / "val.json", categories=[])
    for command in (("eval", folder), ("export", folder, "--onnx")):
        check_refused(call("detect", *command, f"--data={moved}"), "another data set")

    images = [scenes / "val" / f"000{n}.jpg" for n in (1, 2)]
    arguments = ("predict", folder, *images, "--min-score=0", f"--out={tmp_path}")
    rows = json.loads(call("detect", *arguments, "--json").out)["images"]
    assert [Path(row["drawn"]).name for row in rows] == ["0001.png", "0002.png"]
    for row in rows:
        assert Image.open(row["drawn"]).size == (480, 480)  # enlarged
        scores = [box["score"] for box in row["boxes"]]
        assert scores == sorted(scores, reverse=True) and len(scores) == 100
        image, drawn = Image.open(row["image"]), Image.open(row["drawn"])
        assert (np.asarray(drawn) != np.asarray(image.resize(drawn.size))).any()
        for box in row["boxes"]:
            assert box["class"] in "0123456789"
            assert all(-1 <= side <= 161 for side in box["box"])

    exported = json.loads(call("detect", "export", folder, "--onnx", "--json").out)
    assert exported["path"] == str(folder / "detector.onnx")
    assert max(exported["max_rel"].values()) < 1e-4
    assert json.loads(exported["metadata"]["input_size"]) == {"height": 64, "width": 64}


def test_prediction_turns_photos_upright_and_needs_no_data(
    detector: tuple[Path, dict[str, Any]], scenes: Path, tmp_path: Path
) -> None:
    from mobilenas.detect.detector import open_detector
    from mobilenas.detect.predict import predict

    upright = Image.open(scenes / "val" / "0001.jpg").crop((0, 0, 160, 100))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it turned clockwise
    upright.save(tmp_path / "upright.png")
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "phone.png", exif=exif)
    images = [tmp_path / "upright.png", tmp_path / "phone.png"]
    away = scenes.rename(scenes.with_name("away"))
    try:
        one, other = predict(open_detector(detector[0]), images, tmp_path / "drawn", 0)
    finally:
        away.rename(scenes)
    assert one["boxes"] == other["boxes"] != []
    drawn = [np.asarray(Image.open(row["drawn"])) for row in (one, other)]
    assert (drawn[0] == drawn[1]).all()


def test_images_of_one_name_and_those_of_folders_are_drawn_each(
    detector: tuple[Path, dict[str, Any]], scenes: Path, tmp_path: Path, call: Call
) -> None:
    for name in ("a/0001.jpg", "b/0001.jpg", "b/.hidden.jpg", "__MACOSX/._0001.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(scenes / "val" / "0001.jpg", tmp_path / name)
    (tmp_path / "b" / "notes.txt").touch()
    out = tmp_path / "drawn"
    done = call("detect", "predict", detector[0], tmp_path, f"--out={out}", "--json")
    assert "2 images; left out: 2 hidden files, 1 other file\n" in done.err
    said = json.loads(done.out)
    left_out = {"hidden files": 2, "other files": 1}
    assert said["data"] == {"images": 2, "left_out": left_out}
    assert sorted(contents(out)) == ["a/0001.jpg.png", "b/0001.jpg.png"]
    assert [row["drawn"] for row in said["images"]] == [str(out / name) for name in contents(out)]


def test_an_image_that_is_too_thin_is_refused(
    detector: tuple[Path, dict[str, Any]], tmp_path: Path, call: Call
) -> None:
    for width, height in ((4000, 2), (64, 1)):
        Image.new("RGB", (width, height)).save(tmp_path / f"{height}.png")
    out = f"--out={tmp_path / 'drawn'}"
    thin = call("detect", "predict", detector[0], tmp_path / "2.png", out)
    check_refused(thin, "2.png: 4000 x 2 pixels", "fitted into 64 x 64")
    assert call("detect", "predict", detector[0], tmp_path / "1.png", out).code == 0


def test_the_data_are_described(
    detector: tuple[Path, dict[str, Any]], scenes: Path, call: Call
) -> None:
    folder, result = detector
    counts = {}
    for part, images in (("train", 6), ("val", 3)):
        boxes = len(json.loads((scenes / f"{part}.json").read_text())["annotations"])
        counts[part] = {"images": images, "annotations": boxes}
        assert result["data"][part]["left_out"].keys() >= {"crowds", "flat boxes"}
        assert counts[part].items() <= result["data"][part].items()
    assert result["data"]["classes"] == list("0123456789")
    assert json.loads((folder / "run.json").read_text())["facts"]["data"] == result["data"]
    evaluated = call("detect", "eval", folder, "--json")
    assert json.loads(evaluated.out)["data"] == result["data"]
    line = f"10 classes (0, 1, 2, ...): 6 training images with {counts['train']['annotations']} "
    assert line in evaluated.err


def test_mmdets_own_tool_evaluates_a_run(
    detector: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, result = detector

    def tool(*arguments: object) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "mobilenas.detect.tools", *map(str, arguments)],
            env=ENVIRONMENT,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=200,
        )

    done = tool("test", folder / "config.py", folder / "checkpoint.pth", "--work-dir=work")
    assert done.returncode == 0, done.stderr
    (measured,) = (tmp_path / "work").glob("*/*.json")
    found = json.loads(measured.read_text())
    assert found["coco/bbox_mAP"] == pytest.approx(result["AP"], abs=1e-3)
    refused = tool("tset")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert "'tset' is no tool of mmdet; there are" in refused.stderr


def test_bad_data_are_refused_before_anything_is_written(
    scenes: Path, tmp_path: Path, call: Call
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(scenes, broken)
    (broken / "train" / "0002.jpg").unlink()
    edit(broken / "train.json", categories=[{"id": 1, "name": "0"}])
    train = ("detect", "train", *TINY, f"--out={tmp_path / 'run'}")
    check_refused(call(*train, f"--data={broken}"), "1 image files missing", "unknown categories")
    check_refused(call(*train, f"--data={tmp_path / 'none'}"), "is no folder")
    assert not (tmp_path / "run").exists()


def test_what_the_commands_refuse(
    detector: tuple[Path, dict[str, Any]], scenes: Path, tmp_path: Path, call: Call
) -> None:
    train = ("detect", "train", f"--data={scenes}", f"--out={tmp_path / 'run'}")
    check_refused(call(*train), "give a CONFIG")
    check_refused(call(*train, "no_such"), "retinanet_quick")
    check_refused(call(*train, *TINY[:2]), "space and arch go together")
    check_refused(call(*train, "no_such", "--data=digits"), "retinanet_quick")
    needed = "`mobilenas detect train` makes one"
    check_refused(call("detect", "eval", tmp_path), str(tmp_path), "holds no run", needed)
    check_refused(call("detect", "export", detector[0]), "--onnx")
    check_refused(call("detect", "predict", detector[0], scenes / "val.json"), "val.json")
    one = scenes / "val" / "0001.jpg"
    check_refused(call("detect", "predict", detector[0], one, one), "given more than once")
    check_refused(call(*train, *TINY, "--data=~/none"), str(Path.home() / "none"))
    large = call(*train, *TINY, "--seed=5000000000")
    assert large.code == 2 and "'--seed'" in large.err and "Traceback" not in large.err
    assert contents(tmp_path) == {}
    photo = tmp_path / "0001.png"
    Image.open(one).save(photo)
    before = contents(tmp_path)
    link = tmp_path / "link"
    link.symlink_to(tmp_path, target_is_directory=True)
    own = ("detect", "predict", detector[0], photo, f"--out={link}")
    check_refused(call(*own), "0001.png is one of the images")
    assert contents(tmp_path) == before


def test_without_mmdet_one_line_says_what_to_install() -> None:
    code = (
        "import importlib.util as u, sys; real = u.find_spec;"
        "u.find_spec = lambda name, *rest: None if name == 'mmdet' else real(name, *rest);"
        "from mobilenas import cli;"
        "sys.argv = ['mobilenas', 'detect', 'eval', 'run'];"
        "cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert done.stderr.startswith("mobilenas: detection needs mmdet")
    assert done.stderr.count("\n") == 1
