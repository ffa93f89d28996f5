"""The folder of a detector's training: nothing is written that cannot be trained, and the data may
move.
"""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import contents, edit
from PIL import Image
from tiny_detectors import ARCH, INFO, SMALL

from mobilenas.base.errors import BadInput
from mobilenas.base.files import write_json
from mobilenas.data.scenes import make_scenes
from mobilenas.nn.saved import load_network, save_network
from mobilenas.report.detect import describe_detector
from mobilenas.runs import RunFolder

pytest.importorskip("mmdet", reason="needs pip install '.[detect]'")

from mmdet.registry import MODELS

from mobilenas.detect.build import quiet
from mobilenas.detect.config import read_config
from mobilenas.detect.detector import (
    DetectSettings,
    create_detect_run,
    open_detect_run,
    open_detector,
)
from mobilenas.detect.predict import load_detector
from mobilenas.detect.runner import evaluate_detector, train_detector


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "few"
    make_scenes(folder, train=4, val=2)
    return folder


@pytest.fixture
def settings(scenes: Path, tiny_yaml: str) -> DetectSettings:
    return DetectSettings(
        config="retinanet_quick",
        space=tiny_yaml,
        arch=ARCH,
        data=str(scenes),
        options=SMALL["retinanet_quick"],
    )


def with_options(settings: DetectSettings, *options: str) -> DetectSettings:
    return settings.model_copy(update={"options": settings.options + options})


@pytest.mark.parametrize(
    ("option", "word"),
    [
        ("model.bbox_head.feat_channel=7", "feat_channel"),
        ("model.bbox_head.in_channels=7", "320 x 320"),
        ("train_dataloader.batch_size=0", "batch_size"),
        ("train_cfg.max_epoch=7", "max_epoch"),
        ("train_cfg.max_epochs=0", "no step"),
        ("train_dataloader.sampler.type=InfiniteSampler", "no epoch ends; DefaultSampler"),
        ("default_hooks.checkpoint.by_epoch=False", "checkpoint.by_epoch must be True"),
        ("model.bbox_head.num_classes=3", "the data have 10 classes"),
        ("param_scheduler.0.factor=1", "factor"),
        ("optim_wrapper.optimizer.lr=x", "float"),
        ("optim_wrapper.optimizer.type=Foo", "type: Foo"),
        ("train_dataloader.dataset.filter_cfg.min_size=x", "str"),
        ("val_dataloader.dataset.pipeline.0.type=Nothing", "Nothing"),
    ],
)
def test_what_cannot_be_built_leaves_no_run(
    settings: DetectSettings, tmp_path: Path, option: str, word: str
) -> None:
    with pytest.raises(BadInput) as caught:
        create_detect_run(tmp_path / "run", with_options(settings, option))
    message = str(caught.value)
    assert word in message and "\n" not in message
    assert contents(tmp_path) == {}


MISTAKES = {
    "config.pop('test_evaluator')": "has no test_evaluator",
    "config.model.pop('data_preprocessor')": "has no model.data_preprocessor",
    "config.pop('visualizer')": "has no visualizer",
    "config.model.backbone = 3": "int",
    "config.model.neck = 'FPN'": "str",
    "config.model.bbox_head.anchor_generator.strides = 8": "int",
    "config.optim_wrapper = None": "NoneType",
    "config.train_dataloader.dataset = 'x'": "str",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_config_with_something_else_in_place_of_a_part_is_refused(
    mistake: str, settings: DetectSettings, tmp_path: Path
) -> None:
    config = read_config("retinanet_quick")
    exec(mistake, {"config": config})
    config.dump(tmp_path / "mine.py")
    asked = settings.model_copy(update={"config": str(tmp_path / "mine.py"), "options": ()})
    with pytest.raises(BadInput, match=f"config .*mine.py:? .*{MISTAKES[mistake]}"):
        create_detect_run(tmp_path / "run", asked)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "loop",
    [{"type": "IterBasedTrainLoop", "max_iters": 4}, {"by_epoch": False, "max_iters": 4}],
)
def test_training_by_iterations_is_refused(
    loop: dict[str, Any], settings: DetectSettings, tmp_path: Path
) -> None:
    config = read_config("retinanet_quick")
    config.train_cfg = loop
    config.dump(tmp_path / "mine.py")
    asked = settings.model_copy(update={"config": str(tmp_path / "mine.py")})
    needed = (
        "train_cfg is IterBasedTrainLoop, .* it must be an EpochBasedTrainLoop, with max_epochs"
    )
    with pytest.raises(BadInput, match=needed):
        create_detect_run(tmp_path / "run", asked)
    assert not (tmp_path / "run").exists()


def test_a_run_by_iterations_of_before_is_not_continued(
    settings: DetectSettings, tmp_path: Path
) -> None:
    run = create_detect_run(tmp_path / "run", settings)
    run.config.train_cfg = {"by_epoch": False, "max_iters": 4}
    with pytest.raises(BadInput, match="it must be an EpochBasedTrainLoop"):
        train_detector(run)
    assert not run.checkpoint.exists()


@pytest.mark.parametrize("hooks", [None, {"checkpoint": {"type": "CheckpointHook", "interval": 0}}])
def test_lists_of_evaluators_and_any_hooks_are_taken(
    hooks: dict[str, Any] | None, settings: DetectSettings, tmp_path: Path
) -> None:
    config = read_config("retinanet_quick")
    config.pop("default_hooks")
    config.update({} if hooks is None else {"default_hooks": hooks})
    config.val_evaluator = [config.val_evaluator]
    config.train_cfg.max_epochs = 2
    config.dump(tmp_path / "mine.py")
    update = {"config": str(tmp_path / "mine.py")}
    small = with_options(
        settings.model_copy(update=update),
        "test_dataloader.dataset.pipeline.1.scale=(64,64)",
        "val_dataloader.dataset.pipeline.1.scale=(64,64)",
        "train_dataloader.dataset.pipeline.2.scale=(64,64)",
    )
    result = train_detector(create_detect_run(tmp_path / "run", small))
    assert result["classes"].keys() == set("0123456789")
    assert (tmp_path / "run" / "checkpoint.pth").is_file()


def test_images_that_mmdet_leaves_out_are_counted(
    settings: DetectSettings, scenes: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(scenes, data)
    content = json.loads((data / "train.json").read_text())
    first = content["images"][0]["id"]
    rows = [row for row in content["annotations"] if row["image_id"] != first]
    edit(data / "train.json", annotations=rows)
    settings = settings.model_copy(update={"data": str(data)})
    run = create_detect_run(tmp_path / "run", settings)
    left_out = run.found["train"]["left_out"]
    assert left_out["images without a box"] == 1
    assert left_out["images smaller than 32 px"] == 0
    assert run.folder.fact("data") == run.found == open_detect_run(tmp_path / "run").found

    from mmdet.registry import DATASETS

    assert len(DATASETS.build(run.config.train_dataloader.dataset)) == 3
    size = "train_dataloader.dataset.filter_cfg.min_size=500"
    with pytest.raises(BadInput, match=r"4 of 4 training images left out.* 4 images smaller"):
        create_detect_run(tmp_path / "none", with_options(settings, size))
    assert not (tmp_path / "none").exists()


def test_crowds_are_counted_and_a_validation_image_that_is_too_thin_is_refused(
    settings: DetectSettings, scenes: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(scenes, data)
    content = json.loads((data / "train.json").read_text())
    crowds = sum(row["image_id"] == 1 for row in content["annotations"])
    rows = [row | {"iscrowd": int(row["image_id"] == 1)} for row in content["annotations"]]
    edit(data / "train.json", annotations=rows)
    settings = settings.model_copy(update={"data": str(data)})
    run = create_detect_run(tmp_path / "run", settings)
    assert run.found["train"]["left_out"]["crowds"] == crowds > 0
    Image.new("RGB", (4000, 2)).save(data / "val" / "thin.png")
    thin = {"id": 9, "file_name": "thin.png", "width": 4000, "height": 2}
    images = json.loads((data / "val.json").read_text())["images"]
    edit(data / "val.json", images=[*images, thin])
    with pytest.raises(BadInput, match=r"val/thin\.png: 4000 x 2 pixels"):
        create_detect_run(tmp_path / "none", settings)


def test_the_data_may_move_but_not_change(
    settings: DetectSettings, scenes: Path, tmp_path: Path
) -> None:
    old, new, run = tmp_path / "old", tmp_path / "new", tmp_path / "run"
    shutil.copytree(scenes, old)
    create_detect_run(run, settings.model_copy(update={"data": str(old)}))
    old.rename(new)
    with pytest.raises(BadInput, match=f"run are no longer in {old}: give their --data"):
        open_detect_run(run)
    opened = open_detect_run(run, new)
    assert opened.settings.data == str(new)
    assert opened.config.train_dataloader.dataset.ann_file == str(new / "train.json")
    assert open_detector(run).classes == opened.data.classes == tuple("0123456789")
    edit(new / "val.json", annotations=[])
    with pytest.raises(BadInput, match=f"run was started with another data set.*{new}"):
        open_detect_run(run, new)


def test_a_run_of_the_release_before_is_opened_with_all_that_it_said(
    settings: DetectSettings, saved: Path, scenes: Path, tmp_path: Path
) -> None:
    chosen = {"space": None, "arch": None, "weights": str(saved)}
    created = create_detect_run(tmp_path, settings.model_copy(update=chosen))
    facts = created.folder.facts
    write_json(
        tmp_path / "run.json",
        {
            "config": "retinanet_quick",
            "space": None,
            "arch": None,
            "weights": str(saved),
            "data": str(scenes),
            "options": list(SMALL["retinanet_quick"]),
            "seed": 0,
            "mobilenas": "0.1.0",
            "classes": facts["classes"],
            "data_checksum": facts["data_checksum"],
            "weights_checksum": facts["weights_checksum"],
        },
    )
    before = contents(tmp_path)
    opened = open_detect_run(tmp_path)
    assert opened.settings == created.settings
    assert opened.classes == created.classes
    parents = {"network": str(saved), "data": created.settings.data}
    assert opened.folder.parents == created.folder.parents == parents
    assert opened.config.to_dict() == created.config.to_dict()
    opened.folder.check_unchanged({"seed": 0, "options": SMALL["retinanet_quick"], "arch": None})
    with pytest.raises(BadInput, match=r"was started with another seed \(0, not 1\)"):
        opened.folder.check_unchanged({"seed": 1})
    with pytest.raises(BadInput, match="already holds a run"):
        create_detect_run(tmp_path, created.settings)
    # Neither other weights nor other data go unnoticed.
    for name, message in (("weights", "holds other weights"), ("data", "another data set")):
        edit(tmp_path / "run.json", **{f"{name}_checksum": 1})
        with pytest.raises(BadInput, match=message):
            open_detect_run(tmp_path)
        (tmp_path / "run.json").write_bytes(before["run.json"])
    assert contents(tmp_path) == before


def test_a_run_that_is_no_detector_or_half_of_one_is_refused(tmp_path: Path) -> None:
    for kind, message in (
        ("train", "holds the training of a network; a run of `mobilenas detect train` is needed"),
        ("detect", r"lacks config\.py"),
    ):
        RunFolder.create(tmp_path / kind, kind, {"config": "ssdlite"})  # type: ignore[arg-type]
        with pytest.raises(BadInput, match=message):
            open_detector(tmp_path / kind)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: {}, "backbone.* is missing"),
        (lambda state: None, "state_dict"),
        (lambda state: state | {"more.weight": torch.ones(1)}, "more.weight is none"),
        (lambda state: state | {"bbox_head.retina_cls.bias": torch.ones(1)}, "is .1.; the network"),
    ],
)
def test_weights_of_another_detector_are_refused(
    change: Callable[[Any], Any], words: str, settings: DetectSettings, tmp_path: Path
) -> None:
    run = create_detect_run(tmp_path / "run", settings)
    state = MODELS.build(run.config.model).state_dict()
    torch.save({"state_dict": change(state), "meta": {}}, run.checkpoint)
    for use in (evaluate_detector, load_detector, train_detector):
        with pytest.raises(BadInput, match=f"checkpoint.pth.*{words}"):
            use(run)


def test_weights_may_change_only_after_the_first_checkpoint(
    settings: DetectSettings, saved: Path, tmp_path: Path
) -> None:
    weights, run = tmp_path / "network", tmp_path / "run"
    shutil.copytree(saved, weights)
    chosen = {"space": None, "arch": None, "weights": str(weights)}
    create_detect_run(run, settings.model_copy(update=chosen))
    open_detect_run(run)
    network, _ = load_network(weights)
    with torch.no_grad():
        next(network.parameters()).mul_(2)
    save_network(network, weights, INFO)
    with pytest.raises(BadInput, match=r"network holds other weights than .*run was started with"):
        open_detect_run(run)
    (run / "checkpoint.pth").touch()
    open_detect_run(run)


def test_the_built_in_scenes_may_be_named_again(
    settings: DetectSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = partial(make_scenes, train=4, val=2)
    monkeypatch.setattr("mobilenas.detect.detector.make_scenes", few)
    create_detect_run(tmp_path / "run", settings.model_copy(update={"data": "digits"}))
    assert open_detect_run(tmp_path / "run", Path("digits")).found["train"]["images"] == 4


def test_a_log_that_cannot_be_written_stops_nobody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mmengine").touch()
    with quiet(tmp_path):
        print("of mmengine")
    assert capsys.readouterr().out == ""


def test_a_backbone_of_mmdet_has_no_arch() -> None:
    counts = {"total": 4, "backbone": 1, "neck": 1, "head": 2}
    about = {"config": "mine.py", "space": None, "arch": None, "input": [64, 64]}
    said = describe_detector(about | {"flops": counts, "params": counts})
    assert said.startswith("mine.py\n4 FLOPs")
