"""Accuracy of saved networks and exported files: counted right, on the right images."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from exporting import INFO, TINY, Exported, build, export
from PIL import Image

from mobilenas.base.errors import BadInput
from mobilenas.data import load_data, sources
from mobilenas.export import evaluate, load_images
from mobilenas.export.deployable import normalise
from mobilenas.export.evaluate import ranked_right, wilson
from mobilenas.nn.saved import save_network

DIGITS = replace(INFO, classes=tuple("0123456789"), crop=0.8, accuracy=None)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A network of the digits, saved and exported."""
    network, folder = build(TINY), tmp_path_factory.mktemp("both")
    save_network(network, folder, DIGITS)
    export(network, folder / "model.onnx", info=DIGITS)
    return folder, folder / "model.onnx"


def test_top1_and_top5_of_the_test_images_in_torch_and_onnxruntime(both: tuple[Path, Path]) -> None:
    test = load_data("digits", 16, 0.8).test
    assert test is not None
    inputs = torch.from_numpy(normalise(test.pixels, DIGITS.mean, DIGITS.std))
    with torch.inference_mode():
        top = build(TINY).eval()(inputs).topk(5).indices.numpy() == test.labels[:, None]
    results = [evaluate(path, "digits") for path in both]
    assert [r.runtime for r in results] == ["torch", "onnxruntime"]
    for path, result in zip(both, results, strict=True):
        assert (result.network, result.images) == (str(path), "355 test images")
        assert (result.n, result.resolution, result.short_side) == (355, 16, 20)
        assert result.top1 == top[:, 0].sum() / 355
        assert result.top5 == top.any(axis=1).sum() / 355 > result.top1
        assert result.top1_interval == wilson(int(top[:, 0].sum()), 355)
    whole = replace(DIGITS, crop=1.0)
    save_network(build(TINY), both[0] / "whole", whole)
    assert evaluate(both[0] / "whole", "digits").top1 != results[0].top1


def test_all_images_where_there_is_no_test_part_and_no_top5_of_few_classes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        noise = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "pets" / name / "1.png")
    network = build(TINY)
    network.reset_classifier(2)
    caplog.set_level(logging.WARNING)
    for classes, warned in ((("cat", "dog"), 0), (("0", "1"), 0), (("n1", "n2"), 1)):
        save_network(network, tmp_path / "net", replace(INFO, classes=classes))
        caplog.clear()
        result = evaluate(tmp_path / "net", str(tmp_path / "pets"))
        assert result.images == "all 2 images, as there is no test part"
        assert (result.top1, result.top5, result.top5_interval) == (0.5, None, None)
        assert [r.message.count("(cat, not n1)") for r in caplog.records] == [1] * warned
        assert result.data["classes_by"] == ("name" if classes == ("cat", "dog") else "position")
        assert result.data["train_images"] == 2


@pytest.mark.parametrize("stream", [True, False])
def test_classes_of_the_same_names_count_by_these_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    if stream:
        monkeypatch.setattr(sources, "_HELD_BYTES", 0)
    names = tuple(f"c{i}" for i in range(10))
    network = build(TINY).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
    with torch.inference_mode():
        right = network(torch.from_numpy(normalise(pixels, INFO.mean, INFO.std))).argmax(1)
    for name in names:
        for part in ("train", "test"):
            (tmp_path / "images" / part / name).mkdir(parents=True)
            Image.fromarray(pixels[0]).save(tmp_path / "images" / part / name / "x.png")
    for i, image in enumerate(pixels):
        folder = tmp_path / "images" / "test" / names[int(right[i])]
        Image.fromarray(image).save(folder / f"{i}.png")
    shares = []
    for mixed in (names, names[::-1], (*names[3:], *names[:3])):
        order = [names.index(name) for name in mixed]
        moved = build(TINY).eval()
        with torch.no_grad():  # the same network with its logits in another order
            moved.classifier.weight.copy_(network.classifier.weight[order])  # type: ignore
            moved.classifier.bias.copy_(network.classifier.bias[order])  # type: ignore
        save_network(moved, tmp_path / "net", replace(INFO, classes=mixed))
        result = evaluate(tmp_path / "net", str(tmp_path / "images"))
        assert result.data["classes_by"] == "name"
        shares.append(result.top1)
    assert shares == [21 / 30] * 3  # of image 0, which is of all classes, one is right
    odd = replace(INFO, classes=(*names[:9], "fox"))
    with pytest.raises(BadInput, match="class 'c9' is none of the network, which has 'fox'"):
        load_images(str(tmp_path / "images"), 16, odd)


def test_ranks_by_hand() -> None:
    logits = np.array([[3, 2, 1, 0, -1, -2], [0, 0, 0, 0, 0, 0], [5, 9, 8, 7, 6, 4]], np.float32)
    for labels, expected in (([0, 0, 1], (3, 3)), ([4, 4, 0], (0, 3)), ([5, 5, 5], (0, 0))):
        assert ranked_right(logits, np.array(labels)) == expected


def test_wilson_interval_by_scipy() -> None:
    from scipy.stats import binomtest

    for right, n in ((0, 5), (514, 1000), (7, 7), (1, 355)):
        theirs = binomtest(right, n).proportion_ci(0.95, method="wilson")
        assert wilson(right, n) == pytest.approx((theirs.low, theirs.high), abs=1e-6)
    for n in range(1, 200):  # never -1e-17, which prints as -0.0
        assert f"{wilson(0, n)[0]:.1f}" == "0.0"
        assert wilson(n, n)[1] <= 1


def test_what_does_not_fit_is_refused(tmp_path: Path, both: tuple[Path, Path]) -> None:
    (tmp_path / "one").mkdir()
    save_network(build(TINY), tmp_path / "net", INFO)
    with pytest.raises(BadInput, match="digits has 10 classes; the network has 9"):
        load_images("digits", 16, replace(INFO, classes=INFO.classes[:-1]))
    with pytest.raises(BadInput, match="data '/no/such' does not exist"):
        evaluate(both[0], "/no/such")
    with pytest.raises(BadInput, match=r"no saved network at .*one"):
        evaluate(tmp_path / "one", "digits")
    with pytest.raises(BadInput, match=r"no such file: .*none\.onnx"):
        evaluate(tmp_path / "none.onnx", "digits")


def test_logits_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    network = build(TINY)
    with torch.no_grad():
        network.classifier.bias[0] = float("nan")  # type: ignore[operator, index]
    save_network(network, tmp_path, DIGITS)
    with pytest.raises(BadInput, match="logits that are not finite"):
        evaluate(tmp_path, "digits")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("classes", None, "is not an export of mobilenas: no metadata 'classes'"),
        ("input_resolution", "big", "metadata: invalid literal"),
        ("input_short_side", "0", "metadata: division by zero"),
        ("input_short_side", "8", r"metadata: crop 2\.0: must be a share"),
        ("input_normalisation", "{}", "no metadata 'mean'"),
        ("input_normalisation", "[", "metadata: Expecting value"),
        ("classes", "3", "metadata: 'int' object is not iterable"),
        ("classes", "[]", "metadata: 16 px and 0 classes, but the file gives 10 logits"),
        ("input_resolution", "8", "metadata: 8 px and 10 classes, but the file does not run so: "),
    ],
)
def test_an_onnx_file_with_other_metadata_is_refused(
    tiny: Exported, tmp_path: Path, key: str, value: str | None, message: str
) -> None:
    model = onnx.load(tiny.path)
    about = {p.key: p.value for p in model.metadata_props} | {key: value}
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {k: v for k, v in about.items() if v is not None})
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    with pytest.raises(BadInput, match=message) as error:
        evaluate(path, "digits")
    assert str(error.value).startswith(str(path))
    path.write_bytes(b"no onnx")
    with pytest.raises(BadInput, match="ONNX Runtime does not load it: ") as error:
        evaluate(path, "digits")
    assert "\n" not in str(error.value)


def test_a_file_from_before_the_short_side_was_noted(tiny: Exported, tmp_path: Path) -> None:
    model = onnx.load(tiny.path)
    about = {p.key: p.value for p in model.metadata_props if p.key != "input_short_side"}
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, about)
    onnx.save(model, tmp_path / "model.onnx")
    old, new = evaluate(tmp_path / "model.onnx", "digits"), evaluate(tiny.path, "digits")
    assert old.short_side == 16
    assert old.top1 == new.top1
