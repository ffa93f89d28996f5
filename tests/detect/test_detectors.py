"""Every recipe's detector on a small network: it learns, predicts, exports, and has its costs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from fvcore.nn import FlopCountAnalysis

pytest.importorskip("mmdet", reason="needs pip install '.[detect]'")

from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData
from onnx import TensorProto, helper
from tiny_detectors import ARCH, SMALL

from mobilenas.base.errors import BadInput, VerificationFailed
from mobilenas.cost import CostModel
from mobilenas.detect import export
from mobilenas.detect.config import load_config
from mobilenas.detect.costs import detector_cost
from mobilenas.detect.export import export_detector, verify
from mobilenas.space import load_space
from mobilenas.space.published import PUBLISHED

ONE_STAGE = [name for name in SMALL if name != "faster_rcnn_quick"]
CLASSES = ["red square", "green square"]


def small(name: str, weights: Path, coco: Any) -> Config:
    return load_config(name, weights=weights, data=coco, options=SMALL[name])


def build(config: Config, seed: int = 0) -> Any:
    torch.manual_seed(seed)  # mmdet's heads draw from the global generator
    detector = MODELS.build(config.model)
    detector.init_weights()
    return detector


def batch() -> dict[str, Any]:
    """Two images of 96 x 128 with a bright box of one of two classes each."""
    inputs, samples = [], []
    generator = torch.Generator().manual_seed(0)
    for label, box in enumerate([(8, 16, 72, 80), (40, 24, 104, 88)]):
        image = torch.randint(0, 60, (3, 96, 128), generator=generator, dtype=torch.uint8)
        image[label, box[1] : box[3], box[0] : box[2]] = 255
        truth = InstanceData(
            bboxes=torch.tensor([box], dtype=torch.float32), labels=torch.tensor([label])
        )
        shape = {"img_shape": (96, 128), "ori_shape": (96, 128), "scale_factor": (1.0, 1.0)}
        sample = DetDataSample(metainfo=shape | {"batch_input_shape": (96, 128), "img_id": label})
        sample.gt_instances = truth
        inputs.append(image)
        samples.append(sample)
    return {"inputs": inputs, "data_samples": samples}


@pytest.mark.parametrize("name", SMALL)
def test_the_loss_falls_and_boxes_come_out(name: str, saved: Path, coco: Any) -> None:
    detector = build(small(name, saved, coco))
    optimizer = torch.optim.AdamW(detector.parameters(), lr=4e-3)
    data = detector.data_preprocessor(batch(), training=True)
    # RTMDet's targets of classes are overlaps, so that loss first rises as boxes come to overlap.
    part = "loss_bbox" if name == "rtmdet_tiny_quick" else "loss"
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss, parts = detector.parse_losses(detector(**data, mode="loss"))
        loss.backward()
        optimizer.step()
        losses.append(parts[part].item())
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.9 * losses[0], losses
    first = next(
        p for n, p in detector.named_parameters() if n.startswith("backbone.network.blocks.4")
    )
    assert first.grad is not None
    assert first.grad.abs().max() > 0
    config = detector.eval().test_cfg
    (config.rcnn if "rcnn" in config else config).score_thr = 0.0
    with torch.no_grad():
        (found, _) = detector.test_step(batch())
    boxes, scores = found.pred_instances.bboxes, found.pred_instances.scores
    assert len(boxes) > 0
    assert boxes.min() >= 0
    assert (boxes[:, 2::2] <= 128).all()
    assert (boxes[:, 1::2] <= 96).all()
    assert ((scores >= 0) & (scores <= 1)).all()
    assert set(found.pred_instances.labels.tolist()) <= {0, 1}


@pytest.mark.parametrize("name", SMALL)
def test_costs_are_what_fvcore_counts(name: str, saved: Path, coco: Any) -> None:
    config = small(name, saved, coco)
    cost = detector_cost(config, 64, 96)
    detector = build(config).eval()

    def count(module: torch.nn.Module, x: Any) -> float:
        counter = FlopCountAnalysis(module, (x,)).unsupported_ops_warnings(False)
        by_operator = counter.uncalled_modules_warnings(False).by_operator()
        return float(by_operator["conv"] + by_operator["linear"])

    image = torch.zeros(1, 3, 64, 96)
    with torch.no_grad():
        maps = detector.neck(detector.backbone(image))
        assert cost.backbone.flops == count(detector.backbone, image)
        assert cost.neck.flops == count(detector.neck, detector.backbone(image))
        if name == "faster_rcnn_quick":
            second = detector.roi_head.bbox_head
            one = count(second, torch.zeros(1, 16, 7, 7))
            assert cost.head.flops == count(detector.rpn_head, maps) + 200 * one
        else:
            assert cost.head.flops == count(detector.bbox_head, maps)
    assert cost.total.params == sum(p.numel() for p in detector.parameters())


def test_the_backbone_costs_what_the_cost_model_says_of_it() -> None:
    space, arch = PUBLISHED["fairnas_a"]
    built = load_space(space)
    config = load_config("retinanet", space=space, arch=arch)
    cost = detector_cost(config, 224, 224).backbone
    after = 320 * 1280 * 7 * 7 + 1280 * 1000  # the 1x1 convolution and the classifier
    assert cost.flops == CostModel(built).flops(built.parse(arch)) - after


def test_published_backbones_of_retinanet_at_1280_x_800() -> None:
    fairnas, mobilenetv2 = (
        detector_cost(load_config("retinanet", space=s, arch=a), 800, 1280)
        for s, a in (PUBLISHED["fairnas_a"], PUBLISHED["mobilenetv2_100"])
    )
    assert round(fairnas.total.flops / 1e9, 1) == 158.2
    assert round(mobilenetv2.total.flops / 1e9, 1) == 156.4
    assert fairnas.head == mobilenetv2.head


def test_a_size_that_is_too_small_is_named(saved: Path, coco: Any) -> None:
    with pytest.raises(BadInput, match="do not take 0 x 64"):
        detector_cost(small("retinanet_quick", saved, coco), 0, 64)


def photos() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", ONE_STAGE)
def test_raw_heads_export_and_decode_from_the_file_alone(
    name: str, saved: Path, coco: Any, tmp_path: Path
) -> None:
    config = small(name, saved, coco)
    detector = build(config)
    report = export_detector(detector, config, CLASSES, tmp_path / "d.onnx", photos())
    strides = [16, 32, 64, 107, 160, 320] if name == "ssdlite_quick" else [8, 16, 32]
    if name == "retinanet_quick":
        strides += [64, 128]
    levels = range(len(strides))
    assert list(report.max_rel) == [f"{g}_{i}" for g in ("scores", "boxes") for i in levels]
    assert max(report.max_rel.values()) < 1e-4
    held = {p.key: p.value for p in onnx.load(tmp_path / "d.onnx").metadata_props}
    assert held == report.metadata
    assert held["classes"] == '["red square", "green square"]'
    assert held["strides"] == str(strides)
    assert held["arch"] == ARCH
    assert held["input_size"] == '{"height": 64, "width": 96}'
    # Another way to the same values: mmdet's preprocessor on BGR, then its tensor mode.
    session = ort.InferenceSession(tmp_path / "d.onnx", providers=["CPUExecutionProvider"])
    image = photos()[0]
    centre, spread = np.array([0.5, 0.4, 0.3]), np.array([0.2, 0.25, 0.3])
    x = ((image / 255 - centre) / spread).transpose(2, 0, 1)[None].astype(np.float32)
    found = session.run(None, {"image": x})
    bgr = torch.from_numpy(image[..., ::-1].transpose(2, 0, 1).copy())
    data = detector.eval().data_preprocessor({"inputs": [bgr], "data_samples": None})
    with torch.no_grad():
        wanted = [y for maps in detector(data["inputs"], None, mode="tensor") for y in maps]
    for a, b in zip(found, wanted, strict=True):
        assert np.abs(a - b.numpy()).max() <= 1e-4 * np.abs(b.numpy()).max()


def times_two(name: str = "scores_0") -> onnx.ModelProto:
    """A model that gives image + image."""
    kinds = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3, 64, 96]) for n in ("image", name)
    ]
    graph = helper.make_graph(
        [helper.make_node("Add", ["image"] * 2, [name])], "g", *[[k] for k in kinds]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_a_model_that_differs_is_refused() -> None:
    model = times_two().SerializeToString()
    x = np.random.default_rng(0).normal(size=(2, 3, 64, 96)).astype(np.float32)
    right = [[2 * image[None]] for image in x]
    assert verify(model, ["scores_0"], x, right) == {"scores_0": 0.0}
    right[1][0][0, 0, 5, 5] += 1e-3 * np.abs(right[1][0]).max()
    with pytest.raises(VerificationFailed, match=r"scores_0 differs by 0\.001 of its largest"):
        verify(model, ["scores_0"], x, right)
    with pytest.raises(VerificationFailed, match=r"scores_0 is \(1, 3, 64, 96\), torch has"):
        verify(model, ["scores_0"], x, [[image[None, :1]] for image in x])


def test_a_model_that_differs_is_not_written(
    saved: Path, coco: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "trace", lambda *arguments: times_two().SerializeToString())
    config = small("retinanet_quick", saved, coco)
    with pytest.raises(VerificationFailed, match="the model does not run"):
        export_detector(build(config), config, CLASSES, tmp_path / "d.onnx", photos()[:1])
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_named(saved: Path, coco: Any, tmp_path: Path) -> None:
    config = small("faster_rcnn_quick", saved, coco)
    two_stages = build(config)
    with pytest.raises(BadInput, match="FasterRCNN has two stages"):
        export_detector(two_stages, config, CLASSES, tmp_path / "d.onnx", photos())
    config = small("retinanet_quick", saved, coco)
    detector = build(config)
    with pytest.raises(BadInput, match="1 class names; the detector has 2 classes"):
        export_detector(detector, config, ["a"], tmp_path / "d.onnx", photos())
    with pytest.raises(BadInput, match="uint8"):
        export_detector(detector, config, CLASSES, tmp_path / "d.onnx", photos()[0])
    with pytest.raises(BadInput, match="no_folder is not a folder"):
        export_detector(detector, config, CLASSES, tmp_path / "no_folder/d.onnx", photos())


def of_mmdet(name: str, tiny_yaml: str, folder: Path) -> Config:
    """One of mmdet's own configs, on the small network."""
    (folder / "mine.py").write_text(f"_base_ = 'mmdet::{name}.py'")
    return load_config(str(folder / "mine.py"), space=tiny_yaml, arch=ARCH)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("rpn/rpn_r50_fpn_1x_coco", "RPN gives regions without classes"),
        ("centernet/centernet_r18_8xb16-crop512-140e_coco", "CenterNetHead has no strides"),
        ("yolo/yolov3_d53_8xb8-320-273e_coco", "YOLOV3Head gives 3 maps for 3 strides"),
    ],
)
def test_heads_without_scores_and_boxes_of_every_stride_are_refused(
    name: str, why: str, tiny_yaml: str, tmp_path: Path
) -> None:
    config = of_mmdet(name, tiny_yaml, tmp_path)
    detector = build(config)
    classes = [str(number) for number in range(detector.bbox_head.num_classes)]
    with pytest.raises(BadInput, match=why):
        export_detector(detector, config, classes, tmp_path / "d.onnx", photos()[:1, :64, :64])
    assert not (tmp_path / "d.onnx").exists()


def test_a_detector_that_takes_images_as_they_are_is_exported(
    tiny_yaml: str, tmp_path: Path
) -> None:
    config = of_mmdet("yolox/yolox_nano_8xb8-300e_coco", tiny_yaml, tmp_path)
    classes = [str(number) for number in range(80)]
    path = tmp_path / "d.onnx"
    report = export_detector(build(config), config, classes, path, photos()[:1, :64, :64])
    said = json.loads(report.metadata["input_normalisation"])
    assert said == {"mean": [0.0] * 3, "std": [1 / 255] * 3}
    assert report.metadata["strides"] == "[8, 16, 32]"
    assert len(report.max_rel) == 9


def test_what_the_exporter_cannot_convert_is_one_line(
    saved: Path, coco: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trace(*arguments: object) -> bytes:
        raise RuntimeError("no such\noperator")

    monkeypatch.setattr(export, "trace", trace)
    config = small("retinanet_quick", saved, coco)
    with pytest.raises(VerificationFailed, match="ONNX does not convert it: no such operator"):
        export_detector(build(config), config, CLASSES, tmp_path / "d.onnx", photos()[:1])
