"""Exported files against each other: what is measured of which file, and what is refused."""

import subprocess
import sys
from itertools import count
from pathlib import Path

import numpy as np
import onnx
import pytest
from make_graphs import write_graph
from onnx import TensorProto

from mobilenas.base.errors import BadInput
from mobilenas.latency import bench
from mobilenas.latency.bench import bench_files
from mobilenas.latency.graphs import network_job
from mobilenas.latency.timer import make_timer
from mobilenas.runtimes import probe
from mobilenas.runtimes.base import MIN_RUNS
from mobilenas.runtimes.open_file import Exported, open_exported
from mobilenas.space import load_space

PHOTO = (1, 3, 8, 8)


def test_files_of_every_kind_are_run(tmp_path: Path) -> None:
    space = load_space("macro:width=0.125,resolution=16")
    arch = space.sample(np.random.default_rng(0))
    int8 = tmp_path / "int8.onnx"
    timer = make_timer("onnxruntime", dtype="int8", threads=1, command=None)
    timer.write(network_job(space, arch, 1), int8)
    free = {"flops_multiply_adds": "2000000", "input_resolution": "12"}
    files = [
        write_graph(tmp_path / "free.onnx", ("n", "h", "w", 3), TensorProto.UINT8, metadata=free),
        write_graph(tmp_path / "batch.onnx", (4, 3, 8, 8), metadata={"flops_multiply_adds": "5"}),
        write_graph(tmp_path / "half.onnx", ("batch", 3, 8, 9), TensorProto.FLOAT16),
        int8,
    ]
    result = bench_files(files, threads=1, rounds=2)
    assert [(f.input_shape, f.input_dtype, f.flops) for f in result.files] == [
        ((1, 12, 12, 3), "uint8", 2_000_000),
        ((4, 3, 8, 8), "float32", 5),
        ((1, 3, 8, 9), "float16", None),
        ((1, 3, 16, 16), "float32", None),
    ]
    assert [f.size_bytes for f in result.files] == [path.stat().st_size for path in files]
    first, batch, half, _ = result.files
    assert first.ratio == 1 and batch.ratio == batch.ms / first.ms
    assert first.ms_per_gmac == pytest.approx(first.ms / 0.002)
    assert batch.ms_per_gmac == pytest.approx(batch.ms / 2e-8)  # four images
    assert half.ms_per_gmac is None
    assert all(f.runs >= 2 * MIN_RUNS and f.ms > 0 for f in result.files)


def test_weights_in_a_file_of_their_own_are_of_the_size(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "net.onnx", PHOTO, weights=1)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="net.onnx.data")
    assert path.stat().st_size < 1000
    (found,) = bench_files([path], threads=1, rounds=1).files
    assert found.size_bytes == path.stat().st_size + (tmp_path / "net.onnx.data").stat().st_size


def test_a_machine_that_slows_down_changes_no_ratio(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [write_graph(tmp_path / f"{i}.onnx", PHOTO) for i in range(3)]
    visits, opened = count(), []

    def opens(path: Path, threads: int, resolution: int | None) -> Exported:
        opened.append(path)
        return Exported(lambda: None, PHOTO, "float32", None)

    def timed(run: object, seconds: float) -> list[float]:
        return [(paths.index(opened[-1]) + 1) * (1 + 0.01 * next(visits))] * 5

    monkeypatch.setattr(bench, "open_exported", opens)
    monkeypatch.setattr(bench, "timed", timed)
    monkeypatch.setattr("mobilenas.latency.measure.CONTROL_EVERY_SECONDS", 0)
    monkeypatch.setattr("mobilenas.latency.measure.CONTROL_REST", 0)
    result = bench_files(paths, threads=1, rounds=7)
    assert [f.ratio for f in result.files] == pytest.approx([1, 2, 3], rel=0.01)
    assert all(f.spread_ms < 0.01 * f.ms for f in result.files)
    assert result.first_uncorrected.spread_ms > 0.1
    assert [f.runs for f in result.files] == [35, 35, 35]


def test_memory_is_that_of_the_weights_and_not_of_the_runtime(tmp_path: Path) -> None:
    megabytes = [
        (probe.probe(write_graph(tmp_path / "m.onnx", PHOTO, weights=size), 1).memory_bytes or 0)
        / 1e6
        for size in (1, 41)
    ]
    assert 0 < megabytes[0] < 25  # an interpreter with numpy and ONNX Runtime has 60 and more
    assert 40 <= megabytes[1] - megabytes[0] < 200


@pytest.mark.parametrize(
    ("name", "sizes", "dtype", "inputs", "message"),
    [
        ("m.tflite", PHOTO, TensorProto.FLOAT, 1, "only files that end in .onnx or .pte"),
        ("m.onnx", PHOTO, TensorProto.FLOAT, 2, "has 2 inputs"),
        ("m.onnx", PHOTO, TensorProto.INT64, 1, r"its input is a tensor\(int64\)"),
        ("m.onnx", (1, 8, 8), TensorProto.FLOAT, 1, "must have four sizes"),
        ("m.onnx", (1, 3, "h", "w"), TensorProto.FLOAT, 1, "--resolution says which"),
    ],
)
def test_what_is_no_image_model(
    tmp_path: Path, name: str, sizes: tuple[object, ...], dtype: int, inputs: int, message: str
) -> None:
    path = write_graph(tmp_path / name, sizes, dtype, inputs=inputs)
    with pytest.raises(BadInput, match=message) as refused:
        bench_files([path], threads=1, rounds=1)
    assert str(path) in str(refused.value)
    if "h" in sizes:
        assert open_exported(path, 1, 20).shape == (1, 3, 20, 20)


def test_a_file_that_crashes_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_graph(tmp_path / "m.onnx", PHOTO)
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(BadInput, match=r"m\.onnx: the process that loads it ended with code 1"):
        probe.probe(path, 1)


def test_torch_is_in_no_memory_of_an_onnx_file(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "m.onnx", PHOTO)
    script = (
        "import sys; from pathlib import Path; from mobilenas.runtimes.probe import _probe_here;"
        f"_probe_here(Path({str(path)!r}), 1, None); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_an_executorch_file(tmp_path: Path) -> None:
    pytest.importorskip("executorch", reason="executorch is not installed (extra `mobile`)")
    import torch
    from executorch.exir import to_edge_transform_and_lower
    from torch import nn

    class Mean(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image.float().mean((1, 2))

    program = torch.export.export(Mean(), (torch.zeros(1, 8, 9, 3, dtype=torch.uint8),))
    lowered = to_edge_transform_and_lower(program)
    path, torn = tmp_path / "mean.pte", tmp_path / "torn.pte"
    path.write_bytes(lowered.to_executorch().buffer)
    (tmp_path / "mean.pte.json").write_text('{"flops_multiply_adds": "7"}')
    (found,) = bench_files([path], threads=1, rounds=1).files
    assert (found.runtime, found.input_shape, found.input_dtype, found.flops) == (
        *("executorch", (1, 8, 9, 3), "uint8"),
        7,
    )
    assert found.ms > 0
    assert found.memory_bytes is not None
    assert 0 < found.memory_bytes < 30e6  # torch, imported within, would be 100 and more
    torn.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(BadInput, match=r"torn\.pte: ExecuTorch does not load it"):
        open_exported(torn, 1)
