"""export/classify.py: the network's own answers, from every form of an ONNX file."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from exporting import INFO, MEAN, STD, Exported, export, make_images
from PIL import Image

from mobilenas.data import Images, load_data
from mobilenas.export import Calibration, Form
from mobilenas.export.deployable import normalise

CONSUMER = Path(__file__).parents[2] / "export" / "classify.py"


def make_photos(folder: Path) -> list[str]:
    rng = np.random.default_rng(2)
    for name, size in (("a/1", (16, 16)), ("a/2", (40, 30)), ("b/1", (23, 50)), ("b/2", (9, 12))):
        path = folder / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        noise = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        exif = Image.Exif()
        exif[0x0112] = 6 if name == "b/1" else 1  # a photo of a camera that lay on its side
        Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(path, exif=exif)
    return sorted(str(path) for path in folder.rglob("*.png"))


def classify(model: Path, files: list[str]) -> list[str]:
    """What it prints, without the PYTHONPATH that these tests may have."""
    command = [sys.executable, "-I", str(CONSUMER), str(model), *files]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.parametrize(
    ("crop", "form"),
    [
        (1.0, Form()),
        (0.8, Form()),
        (0.8, Form(preprocess=True)),
        (1.0, Form(batch=3)),
        (0.8, Form(batch=1, preprocess=True)),
    ],
)
def test_it_says_what_the_network_does(
    tiny: Exported, tmp_path: Path, crop: float, form: Form
) -> None:
    model = tmp_path / "model.onnx"
    about = export(tiny.network, model, info=replace(INFO, crop=crop), form=form).metadata
    assert about["input_short_side"] == str(round(16 / crop))
    assert f"short side to {round(16 / crop)} (" in about["input_resize"]
    files = make_photos(tmp_path)
    inputs = normalise(load_data(str(tmp_path), 16, crop).train.pixels, MEAN, STD)
    with torch.inference_mode():
        likely = tiny.network.eval()(torch.from_numpy(inputs)).softmax(1).topk(3)
    expected = [
        line
        for file, values, indices in zip(files, likely.values, likely.indices, strict=True)
        for line in (file, *(f"  {v:.4f}  class {i}" for v, i in zip(values, indices, strict=True)))
    ]
    assert classify(model, files) == expected


@pytest.mark.parametrize("preprocess", [False, True])
def test_an_int8_file_is_used_like_any_other(
    tiny: Exported, tmp_path: Path, preprocess: bool
) -> None:
    model, images = tmp_path / "model.onnx", make_images(16, 40)
    calibration = Calibration(images[:20], Images(images[20:], np.arange(20) % 10))
    export(tiny.network, model, calibration=calibration, form=Form(preprocess=preprocess))
    files = make_photos(tmp_path)
    said = classify(model, files)
    assert said[::4] == files
    shares = [float(line.split()[0]) for line in said if line not in files]
    assert all(0 < share <= 1 for share in shares)
    assert shares[:3] == sorted(shares[:3], reverse=True)


def test_it_needs_no_torch_and_is_short() -> None:
    lines = CONSUMER.read_text(encoding="utf-8").splitlines()
    imported = {line.split()[1] for line in lines if line.startswith(("import ", "from "))}
    assert imported == {"argparse", "json", "numpy", "onnxruntime", "PIL"}
    assert len(lines) <= 60


def test_an_image_that_would_become_white_is_refused(tiny: Exported, tmp_path: Path) -> None:
    Image.fromarray(np.full((20, 20), 3000, np.uint16)).save(tmp_path / "deep.png")
    command = [sys.executable, "-I", str(CONSUMER), str(tiny.path), str(tmp_path / "deep.png")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0 and done.stdout == ""
    assert "deep.png: pixels of type I;16; there must be 8 bits a channel" in done.stderr
