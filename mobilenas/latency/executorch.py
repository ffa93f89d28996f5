"""ExecuTorch with the XNNPACK delegate, on the CPU of this host.

What XNNPACK does not take runs in ExecuTorch's own kernels: of a network that is the pooling, of a
block nothing (tests/latency).
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from mobilenas.errors import BadInput
from mobilenas.export.executorch import lower, set_threads
from mobilenas.export.form import package_version, silence
from mobilenas.files import write_atomic
from mobilenas.latency.runtimes import timed


class Executorch:
    """Writes .pte files and times them. Implements `Runtime`.

    Raises BadInput if the package is missing or for a data type other than fp32.
    """

    name = "executorch"
    suffix = ".pte"

    def __init__(self, dtype: str, threads: int) -> None:
        if dtype != "fp32":
            raise BadInput(f"executorch runs fp32 only, not {dtype}; onnxruntime has int8")
        self.version = package_version("executorch", "pip install 'mobilenas[mobile]'")
        self._threads = threads

    def prepare(self, module: nn.Module, example: Tensor, path: Path) -> None:
        """Write the .pte file of a module in eval mode; its batch norms should be folded."""
        program = lower(module, example)
        write_atomic(path, lambda file: file.write(program))

    def time(self, path: Path, seconds: float) -> list[float]:
        """Milliseconds of each run of a .pte file with one input of a static shape."""
        with silence():
            from executorch.runtime import Runtime
        set_threads(self._threads)
        method = Runtime.get().load_program(path).load_method("forward")
        assert method is not None
        shape = method.metadata.input_tensor_meta(0).sizes()
        image = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        return timed(lambda: method.execute([image]), seconds)
