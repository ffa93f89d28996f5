"""Recipes fitted to a network and a data set; what does not fit is named."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mmdet", reason="needs pip install '.[detect]'")

from mmdet.registry import DATASETS, MODELS
from tiny_detectors import ARCH, TINY

from mobilenas.base.errors import BadInput
from mobilenas.data.coco import CocoData
from mobilenas.detect.config import load_config, recipes
from mobilenas.detect.costs import detector_cost

# The channels of the maps of the tiny space that each head has anchors for.
CHANNELS = {
    "faster_rcnn": [12, 16, 24, 32],
    "retinanet": [16, 24, 32],
    "rtmdet_tiny": [16, 24, 32],
    "ssdlite": [24, 32],
}


def test_each_recipe_has_a_quick_form() -> None:
    quick = (f"{name}_quick" for name in CHANNELS)
    assert recipes() == sorted([*CHANNELS, *quick, "retinanet_digits"])


@pytest.mark.parametrize("name", CHANNELS)
@pytest.mark.parametrize("suffix", ["", "_quick"])
def test_the_neck_follows_the_network(name: str, suffix: str, saved: Path) -> None:
    config = load_config(name + suffix, weights=saved)
    channels = CHANNELS[name]
    assert list(config.model.neck.in_channels) == channels
    assert config.model.backbone.out_indices == [4 - i for i in reversed(range(len(channels)))]
    assert config.model.backbone.arch == ARCH
    assert config.model.backbone.init_cfg.checkpoint == str(saved)
    if name == "ssdlite":
        assert list(config.model.bbox_head.in_channels) == [24, 32, 512, 256, 256, 128]
        assert config.model.neck.out_channels == config.model.bbox_head.in_channels


@pytest.mark.parametrize("name", CHANNELS)
def test_images_are_normalised_as_the_weights_had_it(name: str, saved: Path) -> None:
    pre = load_config(name, weights=saved).model.data_preprocessor
    assert pre.mean == pytest.approx([127.5, 102.0, 76.5])
    assert pre.std == pytest.approx([51.0, 63.75, 76.5])
    assert pre.bgr_to_rgb is True


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_alone_fits_the_network_that_it_names(name: str) -> None:
    config = load_config(name)
    assert config.model.backbone.space["name"] == "mobilenetv2"
    detector_cost(config, 320, 320)


def test_retinanet_is_the_1x_recipe() -> None:
    config = load_config("retinanet")
    optimizer = config.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr) == ("SGD", 0.01)
    assert (optimizer.momentum, optimizer.weight_decay) == (0.9, 1e-4)
    assert config.train_cfg.max_epochs == 12
    assert config.param_scheduler[1].milestones == [8, 11]
    assert config.param_scheduler[1].gamma == 0.1
    assert config.auto_scale_lr == {"enable": True, "base_batch_size": 16}
    assert config.train_pipeline[2].scale == (1333, 800)


def test_a_backbone_without_weights_is_trained_whole_and_as_fast_as_the_head(
    saved: Path, tiny_yaml: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = load_config("retinanet_quick", weights=saved)
    backbone = config.model.backbone
    assert config.optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mult < 1
    assert (backbone.norm_eval, backbone.frozen_stages) == (True, 1)
    assert not caplog.records
    config = load_config("retinanet_quick", space=tiny_yaml, arch=ARCH)
    backbone = config.model.backbone
    assert "backbone" not in config.optim_wrapper.paramwise_cfg.custom_keys
    assert (backbone.norm_eval, backbone.frozen_stages) == (False, -1)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize("name", CHANNELS)
def test_the_dump_of_a_config_is_the_config(
    name: str, saved: Path, coco: CocoData, tmp_path: Path
) -> None:
    config = load_config(name, weights=saved, data=coco, options=["train_cfg.max_epochs=3"])
    config.dump(tmp_path / "config.py")
    assert load_config(str(tmp_path / "config.py")).to_dict() == config.to_dict()


@pytest.mark.parametrize("name", [*CHANNELS, *(f"{name}_quick" for name in CHANNELS)])
def test_a_data_set_gives_classes_and_images(name: str, coco: CocoData, caplog: Any) -> None:
    config = load_config(name, data=coco)
    heads = config.model.get("roi_head", config.model).bbox_head
    assert heads.num_classes == 2
    assert config.val_evaluator.ann_file == str(coco.val.annotations)
    dataset = DATASETS.build(config.val_dataloader.dataset)
    assert len(dataset) == 6
    assert dataset.metainfo["classes"] == ("red square", "green square")
    sample = dataset[1]["data_samples"]
    assert sample.gt_instances.labels.tolist() == [1]  # green, by the order of the categories
    if ("rtmdet" not in name and "ssd" not in name) or "quick" in name:  # no random crops
        assert len(DATASETS.build(config.train_dataloader.dataset)[0]["data_samples"].gt_instances)


def test_options_are_python_values_and_their_keys_exist() -> None:
    config = load_config(
        "retinanet",
        options=[
            "optim_wrapper.optimizer.lr=1e-3",
            "train_dataloader.dataset.pipeline.2.scale=(640,320)",
            "model.backbone.norm_eval=True",
            "work_dir=runs/a=b",
        ],
    )
    assert config.optim_wrapper.optimizer.lr == 0.001
    assert config.train_dataloader.dataset.pipeline[2].scale == (640, 320)
    assert config.model.backbone.norm_eval is True
    assert config.work_dir == "runs/a=b"
    wrong = ("trian_cfg.max_epochs=3", "work_dir", "train_cfg.max_epochs.x=3")
    pipeline = "train_dataloader.dataset.pipeline"
    for option in (*wrong, f"{pipeline}.9.a=1", f"{pipeline}.x.scale=7"):
        with pytest.raises(BadInput, match=re.escape(option)):
            load_config("retinanet", options=[option])


def test_a_key_that_is_new_is_told(caplog: pytest.LogCaptureFixture) -> None:
    load_config("retinanet", options=["auto_scale_lr.enable=False"])
    assert not [record for record in caplog.records if "no such key" in record.message]
    load_config("retinanet", options=["auto_scale_lr.enabled=False"])
    assert "option auto_scale_lr.enabled=False: the config had no such key" in caplog.text


def test_what_does_not_fit_is_named(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="neither a config file nor one of faster_rcnn, "):
        load_config("yolo")
    with pytest.raises(BadInput, match="space and arch go together"):
        load_config("retinanet", space="s2")
    with pytest.raises(BadInput, match="says space and arch itself"):
        load_config("retinanet", weights=saved, space="s2")
    s1 = "_".join(["e3k3"] * 12)
    with pytest.raises(BadInput, match=r"s1 has feature maps of strides 1, 2, 4; .* 8, 16, 32"):
        load_config("retinanet", space="s1", arch=s1)
    with pytest.raises(BadInput, match="takes 1 channels"):
        load_config("retinanet", space="s1:in_channels=1", arch=s1)
    with pytest.raises(BadInput, match="neither a config file"):
        load_config("_cpu")
    (tmp_path / "none.py").write_text("model = dict(backbone=dict(type='ResNet'))")
    with pytest.raises(BadInput, match=r"none\.py has no model\.neck, optim_wrapper, "):
        load_config(str(tmp_path / "none.py"))
    (tmp_path / "bad.py").write_text("a = 1 / 0")
    with pytest.raises(BadInput, match=r"bad\.py.*division by zero"):
        load_config(str(tmp_path / "bad.py"))


@pytest.mark.parametrize("name", [f"{name}_quick" for name in CHANNELS])
def test_one_category_is_enough_and_leaves_the_space_as_it_is(
    name: str, saved: Path, coco: CocoData
) -> None:
    config = load_config(name, weights=saved, data=replace(coco, classes=("one",)))
    assert config.model.backbone.space["num_classes"] == TINY["num_classes"]
    detector = MODELS.build(config.model)
    head = detector.roi_head.bbox_head if "faster" in name else detector.bbox_head
    assert head.num_classes == 1


def test_a_config_of_mmdet_itself_takes_our_network(tiny_yaml: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'")
    config = load_config(str(file), space=tiny_yaml, arch=ARCH)
    assert config.model.neck.in_channels == CHANNELS["retinanet"]
    assert config.model.neck.start_level == 0
    assert config.model.backbone.space["name"] == TINY["name"]
