"""One depthwise convolution in ONNX Runtime and in ExecuTorch, and the kernel that XNNPACK takes.

    taskset -c 1 python benchmarks/depthwise_runtimes.py

The runtimes are timed in turns; the fastest run counts, which other processes disturb least.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import harness
import torch
from harness import Table
from torch import nn

from mobilenas.runtimes.base import Form
from mobilenas.runtimes.registry import make_runtime

SHAPES = ((240, 28, 2), (576, 14, 1), (1152, 7, 1))  # channels, size, stride: blocks of s2
KERNELS = (3, 5, 7, 9)
RUNTIMES = ("onnxruntime", "executorch")


def main(rounds: int = 3, seconds: float = 0.3) -> Iterator[Table]:
    """Milliseconds of convolutions in two runtimes."""
    rows = []
    for channels, size, stride in SHAPES:
        for kernel in KERNELS:
            conv = nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels)
            image = torch.randn(1, channels, size, size)
            row = {"channels": channels, "size": size, "stride": stride, "kernel": kernel}
            with tempfile.TemporaryDirectory() as folder:
                rows.append(row | compare(conv.eval(), image, Path(folder), rounds, seconds))
    yield Table(rows, dict.fromkeys(RUNTIMES, ".3f"))


def compare(
    conv: nn.Module, image: torch.Tensor, folder: Path, rounds: int, seconds: float
) -> dict[str, object]:
    """Milliseconds by runtime, and XNNPACK's kernel."""
    runtimes = [make_runtime(name, threads=1) for name in RUNTIMES]
    files = [folder / f"conv{runtime.suffix}" for runtime in runtimes]
    for runtime, path in zip(runtimes, files, strict=True):
        made = runtime.convert(conv, image, Form(batch=1), None)
        path.write_bytes(made.files[runtime.suffix])
    times = [
        [min(r.time(path, image.numpy(), seconds)) for r, path in zip(runtimes, files, strict=True)]
        for _ in range(rounds)
    ]
    kernel = xnnpack_kernel(files[1], image, folder / "trace")
    return dict(zip(RUNTIMES, map(min, zip(*times, strict=True)), strict=True)) | {
        "XNNPACK": kernel
    }


def xnnpack_kernel(path: Path, image: torch.Tensor, trace: Path) -> str:
    """XNNPACK's name of the convolution in an ExecuTorch file."""
    from executorch.devtools import Inspector
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(path, enable_etdump=True)
    program.load_method("forward").execute([image])
    program.write_etdump_result_to_file(str(trace), str(trace))
    events = [event for block in Inspector(str(trace)).event_blocks for event in block.events]
    (name,) = [event.name for event in events if event.name.startswith("Convolution")]
    return name.removeprefix("Convolution (NHWC, F32) ").removesuffix(" #1")


if __name__ == "__main__":
    harness.main(main)
