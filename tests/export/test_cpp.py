"""The C++ consumers, compiled and run where their library is."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

CPP = Path(__file__).parents[2] / "export" / "cpp"
SIDE, MEAN, STD = 6, [0.5, 0.25, 0.0], [0.5, 0.25, 2.0]
CLASSES = ['a "quoted" \\ name', "Zürich", "猫", "d"]

if not (shutil.which("cmake") and shutil.which("c++")):
    pytest.skip("no cmake and C++ compiler here", allow_module_level=True)


class Colours(nn.Module):
    """The mean of each channel, and 1: a mistake of layout or normalisation shows."""

    def __init__(self, takes_bytes: bool) -> None:
        super().__init__()
        self.takes_bytes = takes_bytes

    def forward(self, image: Tensor) -> Tensor:
        if self.takes_bytes:
            mean, std = torch.tensor(MEAN), torch.tensor(STD)
            image = ((image.float() / 255 - mean) / std).permute(0, 3, 1, 2)
        means = image.mean((2, 3))
        return torch.cat([means, torch.ones_like(means[:, :1])], 1)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    path = tmp_path_factory.mktemp("image") / "image.ppm"
    path.write_bytes(b"P6\n%d %d\n255\n" % (SIDE, SIDE) + pixels.tobytes())
    return path, pixels


def built(name: str, folder: Path, *options: str) -> Path:
    """The program of a folder of export/cpp."""
    for command in (
        ["cmake", "-S", str(CPP / name), "-B", str(folder), *options],
        ["cmake", "--build", str(folder)],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "classify"


def expected(path: Path, pixels: np.ndarray) -> list[str]:
    probabilities = Colours(True)(torch.from_numpy(pixels)[None]).softmax(1)[0]
    values, indices = probabilities.topk(3)
    return [str(path), *(f"  {v:.4f}  {CLASSES[i]}" for v, i in zip(values, indices, strict=True))]


def metadata(takes_bytes: bool) -> dict[str, str]:
    return {
        "input_resolution": str(SIDE),
        "input_layout": "NHWC, RGB, uint8" if takes_bytes else "NCHW, RGB, float32",
        "input_normalisation": json.dumps({"mean": MEAN, "std": STD}),
        "classes": json.dumps(CLASSES),
    }


def zeros(takes_bytes: bool) -> Tensor:
    return (
        torch.zeros(1, SIDE, SIDE, 3, dtype=torch.uint8)
        if takes_bytes
        else torch.zeros(1, 3, SIDE, SIDE)
    )


def check(program: Path, model: Path, image: tuple[Path, np.ndarray]) -> None:
    path, pixels = image
    done = subprocess.run([program, model, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == expected(path, pixels)


def check_refusals(program: Path, model: Path, image: Path, folder: Path) -> None:
    wide = folder / "wide.ppm"
    wide.write_bytes(b"P6\n7 7\n255\n" + bytes(147))
    torn = folder / "torn.ppm"
    torn.write_bytes(image.read_bytes()[:-1])
    for file, words in (
        (wide, "the model takes 6 x 6 pixels"),
        (torn, "ends early"),
        (model, "is not a binary PPM"),
        (folder / "none.ppm", "is not a binary PPM"),
    ):
        done = subprocess.run([program, model, file], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (1, "")
        assert words in done.stderr


def test_executorch(tmp_path: Path, image: tuple[Path, np.ndarray]) -> None:
    executorch = pytest.importorskip("executorch", reason="no executorch here (extra `mobile`)")
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    (package,) = executorch.__path__
    if not (Path(package) / "lib" / "libexecutorch.so").exists():
        pytest.skip("this executorch comes without its C++ library")
    program = built("executorch", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={package}")
    for takes_bytes in (False, True):
        exported = torch.export.export(Colours(takes_bytes), (zeros(takes_bytes),))
        lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
        (tmp_path / "model.pte").write_bytes(lowered.to_executorch().buffer)
        (tmp_path / "model.pte.json").write_text(json.dumps(metadata(takes_bytes), indent=1))
        check(program, tmp_path / "model.pte", image)
    check_refusals(program, tmp_path / "model.pte", image[0], tmp_path)


def test_onnxruntime(tmp_path: Path, image: tuple[Path, np.ndarray]) -> None:
    import onnx

    root = os.environ.get("ONNXRUNTIME_ROOT")
    if not root:
        pytest.skip("ONNXRUNTIME_ROOT names no release of ONNX Runtime with headers")
    program = built("onnxruntime", tmp_path / "build", f"-DONNXRUNTIME_ROOT={root}")
    for takes_bytes in (False, True):
        path = tmp_path / "model.onnx"
        names = {"input_names": ["image"], "output_names": ["logits"], "dynamo": False}
        torch.onnx.export(Colours(takes_bytes), (zeros(takes_bytes),), str(path), **names)
        model = onnx.load(path)
        onnx.helper.set_model_props(model, metadata(takes_bytes))
        onnx.save(model, path)
        check(program, path, image)
    check_refusals(program, path, image[0], tmp_path)
