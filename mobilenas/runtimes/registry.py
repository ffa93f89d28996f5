"""The runtimes that networks are exported for, by their names.

Each has a module of its name, which needs its packages when it is used.
"""

from importlib import import_module
from pathlib import Path

from mobilenas.base.errors import BadInput
from mobilenas.runtimes.base import Runtime, main_suffix

RUNTIMES = {
    "onnxruntime": "OnnxRuntime",
    "executorch": "ExecuTorch",
    "litert": "LiteRT",
    "openvino": "OpenVINO",
    "ncnn": "NCNN",
    "coreml": "CoreML",
}


def make_runtime(name: str, threads: int | None = None) -> Runtime:
    """The runtime of a name. Raises BadInput for an unknown one and where a package is missing."""
    if name not in RUNTIMES:
        raise BadInput(f"--runtime {name}: choose one of {', '.join(RUNTIMES)}")
    return runtime_class(name)(threads)


def runtime_class(name: str) -> type[Runtime]:
    """The class of a runtime, whether or not its packages are installed."""
    found: type[Runtime] = getattr(import_module(f"mobilenas.runtimes.{name}"), RUNTIMES[name])
    return found


def runtime_of(path: Path) -> type[Runtime] | None:
    """The class of the runtime whose main files have names that end like this one."""
    classes = map(runtime_class, RUNTIMES)
    return next((each for each in classes if path.name.endswith(main_suffix(each.suffixes))), None)
