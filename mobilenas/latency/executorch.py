"""ExecuTorch with the XNNPACK delegate, on the CPU of this host.

What XNNPACK does not take runs in ExecuTorch's own kernels: of a network that is the pooling, of a
block nothing (tests/latency).
"""

from pathlib import Path

from torch import Tensor, nn

from mobilenas.base.errors import BadInput
from mobilenas.base.files import write_atomic
from mobilenas.export.executorch import lower
from mobilenas.export.form import package_version
from mobilenas.latency.exported import open_exported
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
        return timed(open_exported(path, self._threads).run, seconds)
