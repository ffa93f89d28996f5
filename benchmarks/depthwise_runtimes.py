"""One depthwise convolution in ONNX Runtime and in ExecuTorch, and the kernel that XNNPACK takes.

    taskset -c 1 python benchmarks/depthwise_runtimes.py

The runtimes are timed in turns; the fastest run counts, which other processes disturb least.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from executorch.devtools import Inspector
from executorch.runtime import Runtime
from torch import nn

from mobilenas.runtimes.base import Form
from mobilenas.runtimes.registry import make_runtime

SHAPES = ((240, 28, 2), (576, 14, 1), (1152, 7, 1))  # channels, size, stride: blocks of s2
KERNELS = (3, 5, 7, 9)
ROUNDS, SECONDS = 3, 0.3


def xnnpack_kernel(path: Path, image: torch.Tensor, trace: Path) -> str:
    """XNNPACK's name of the convolution in an ExecuTorch file."""
    program = Runtime.get().load_program(path, enable_etdump=True)
    program.load_method("forward").execute([image])
    program.write_etdump_result_to_file(str(trace), str(trace))
    events = [event for block in Inspector(str(trace)).event_blocks for event in block.events]
    (name,) = [event.name for event in events if event.name.startswith("Convolution")]
    return name.removeprefix("Convolution (NHWC, F32) ").removesuffix(" #1")


def main() -> None:
    runtimes = [make_runtime(name, threads=1) for name in ("onnxruntime", "executorch")]
    for channels, size, stride in SHAPES:
        print(f"{channels} channels, {size} x {size}, stride {stride}")
        for kernel in KERNELS:
            conv = nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels)
            image = torch.randn(1, channels, size, size)
            with tempfile.TemporaryDirectory() as folder:
                files = [Path(folder) / f"conv{runtime.suffix}" for runtime in runtimes]
                for runtime, path in zip(runtimes, files, strict=True):
                    made = runtime.convert(conv.eval(), image, Form(batch=1), None)
                    path.write_bytes(made.files[runtime.suffix])
                rounds = [
                    [
                        min(r.time(path, image.numpy(), SECONDS))
                        for r, path in zip(runtimes, files, strict=True)
                    ]
                    for _ in range(ROUNDS)
                ]
                name = xnnpack_kernel(files[1], image, Path(folder) / "trace")
            onnx, pte = (f"{ms:.3f} ms" for ms in np.min(rounds, axis=0))
            print(f"  {kernel} x {kernel}: onnxruntime {onnx}, executorch {pte} {name}")


if __name__ == "__main__":
    main()
