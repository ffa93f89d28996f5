"""mmdet's own configs on a small network: each is trained a step and evaluated, or says why not."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mmdet", reason="needs pip install '.[detect]'")

from mmengine.config import Config
from tiny_detectors import ARCH

from mobilenas.base.errors import BadInput
from mobilenas.base.files import write_json
from mobilenas.detect.build import runnable
from mobilenas.detect.detector import DetectSettings, create_detect_run
from mobilenas.detect.runner import train_detector

# As docs/detection.md lists them.
WORKING = {
    "retinanet": "retinanet/retinanet_r50_fpn_1x_coco",
    "faster_rcnn": "faster_rcnn/faster-rcnn_r50_fpn_1x_coco",
    "cascade_rcnn": "cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco",
    "mask_rcnn": "mask_rcnn/mask-rcnn_r50_fpn_1x_coco",
    "libra_rcnn": "libra_rcnn/libra-faster-rcnn_r50_fpn_1x_coco",
    "rpn": "rpn/rpn_r50_fpn_1x_coco",
    "ssdlite": "ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco",
    "fcos": "fcos/fcos_r50-caffe_fpn_gn-head_1x_coco",
    "atss": "atss/atss_r50_fpn_1x_coco",
    "gfl": "gfl/gfl_r50_fpn_1x_coco",
    "paa": "paa/paa_r50_fpn_1x_coco",
    "yolox": "yolox/yolox_nano_8xb8-300e_coco",
    "fsaf": "fsaf/fsaf_r50_fpn_1x_coco",
    "free_anchor": "free_anchor/freeanchor_r50_fpn_1x_coco",
    "foveabox": "foveabox/fovea_r50_fpn_4xb4-1x_coco",
    "yolof": "yolof/yolof_r50-c5_8xb8-1x_coco",
    "yolo": "yolo/yolov3_d53_8xb8-320-273e_coco",
    "centernet": "centernet/centernet_r18_8xb16-crop512-140e_coco",
    "autoassign": "autoassign/autoassign_r50-caffe_fpn_1x_coco",
    "pafpn": "pafpn/faster-rcnn_r50_pafpn_1x_coco",
    "rtmdet": "rtmdet/rtmdet_tiny_8xb32-300e_coco",
    "vfnet": "vfnet/vfnet_r50_fpn_1x_coco",
    "tood": "tood/tood_r50_fpn_1x_coco",
    "reppoints": "reppoints/reppoints-moment_r50_fpn_1x_coco",
    "ddod": "ddod/ddod_r50_fpn_1x_coco",
}
REFUSED = {
    "detr/detr_r50_8xb2-150e_coco": "DETR is a transformer",
    "cornernet/cornernet_hourglass104_8xb6-210e-mstest_coco": "CornerNet has no neck",
    "solo/solo_r50_fpn_1x_coco": "SOLO has neither rpn_head nor bbox_head",
    "sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco": "EmbeddingRPNHead has no strides",
    "dyhead/atss_r50_fpn_dyhead_1x_coco": "do not fit together",
}
SIDE = 128  # pixels of what the detectors see; what mixes or crops images keeps its own size
RESIZES = ("Resize", "RandomResize", "RandomChoiceResize")


@pytest.fixture(scope="module")
def data(coco: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images for training and one for validation, their boxes as polygons too."""
    folder = tmp_path_factory.mktemp("data")
    content = json.loads(coco.train.annotations.read_text())
    for row in content["annotations"]:
        left, top, width, height = row["bbox"]
        right, bottom = left + width, top + height
        row["segmentation"] = [[left, top, right, top, right, bottom, left, bottom]]
    for name, rows in (("train", (0, 1)), ("val", (2,))):
        part = {key: [content[key][row] for row in rows] for key in ("images", "annotations")}
        write_json(folder / f"{name}.json", part | {"categories": content["categories"]})
        (folder / name).symlink_to(coco.train.images)
    return folder


def steps(value: Any) -> Iterator[Any]:
    """Every dictionary of a config that is a step of a pipeline which sets the size of an image."""
    if isinstance(value, dict) and value.get("type") in RESIZES:
        yield value
    for part in value.values() if isinstance(value, dict) else value:
        if isinstance(part, dict | list | tuple):
            yield from steps(part)


def small(name: str, folder: Path) -> str:
    """A config of mmdet for a step on two small images, as a file; its model stays as it is."""
    path = folder / "small.py"
    path.write_text(f"_base_ = 'mmdet::{name}.py'")
    config = Config.fromfile(path)
    for loader in (config.train_dataloader, config.val_dataloader, config.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
        for step in steps(loader):
            step.scale = (SIDE, SIDE)
    config.train_dataloader.batch_size = 2
    config.train_cfg.max_epochs = 1
    config.optim_wrapper.optimizer.lr = 1e-4
    config.dump(path)
    return str(path)


def settings(name: str, data: Path, tiny_yaml: str, folder: Path) -> DetectSettings:
    config = small(name, folder)
    return DetectSettings(config=config, space=tiny_yaml, arch=ARCH, data=str(data))


@pytest.mark.slow
@pytest.mark.parametrize("name", WORKING)
def test_a_detector_is_trained_and_evaluated(
    name: str, data: Path, tiny_yaml: str, tmp_path: Path
) -> None:
    asked = settings(WORKING[name], data, tiny_yaml, tmp_path)
    result = train_detector(create_detect_run(tmp_path / "run", asked))
    assert (tmp_path / "run" / "checkpoint.pth").is_file()
    assert min(result["flops"].values()) > 0
    assert (result["AP"] is None) == (name == "rpn")  # which knows no classes


@pytest.mark.slow
@pytest.mark.parametrize(("name", "why"), REFUSED.items())
def test_one_that_cannot_be_trained_says_why(
    name: str, why: str, data: Path, tiny_yaml: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=why) as caught:
        create_detect_run(tmp_path / "run", settings(name, data, tiny_yaml, tmp_path))
    assert "\n" not in str(caught.value)


def test_precisions_of_classes_are_those_of_boxes(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(f"_base_ = 'mmdet::{WORKING['mask_rcnn']}.py'")
    config = runnable(Config.fromfile(path), tmp_path, seed=0)
    assert config.val_evaluator.metric == ["segm", "bbox"]  # the later ones take their place


def test_masks_that_are_not_there_are_named(coco: Any, tiny_yaml: str, tmp_path: Path) -> None:
    for part in ("train", "val"):
        (tmp_path / f"{part}.json").symlink_to(coco.train.annotations)
        (tmp_path / part).symlink_to(coco.train.images)
    asked = settings(WORKING["mask_rcnn"], tmp_path, tiny_yaml, tmp_path)
    with pytest.raises(BadInput, match=r"train\.json: MaskRCNN learns masks, and 6 of 6 annot"):
        create_detect_run(tmp_path / "run", asked)
