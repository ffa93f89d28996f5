"""An exported file, loaded and ready to run on random input: what timing and memory need of it.

Any image model with one input, of mobilenas or not. torch is imported for .pte files only, so that
the memory of an .onnx file is measured without it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mobilenas.base.errors import BadInput, VerificationFailed, one_line
from mobilenas.base.files import read_json
from mobilenas.runtimes.base import package_version
from mobilenas.runtimes.onnx_session import make_session

RUNTIMES = {".onnx": "onnxruntime", ".pte": "executorch"}
# Keys of the metadata: those in an .onnx file, or in the .json file beside a .pte file.
FLOPS, RESOLUTION = "flops_multiply_adds", "input_resolution"
_ONNX_TYPES = {f"tensor({t})": t for t in ("float16", "uint8", "int8")} | {
    "tensor(float)": "float32"
}
_SCALAR_TYPES = {0: "uint8", 1: "int8", 5: "float16", 6: "float32"}  # torch's ScalarType


@dataclass(frozen=True)
class Exported:
    """A file that is loaded. run: one run on an input of `shape` and `dtype` (numpy's name).

    flops: multiply-adds of one image, as the metadata of the file say; None where they do not.
    """

    run: Callable[[], object]
    shape: tuple[int, ...]
    dtype: str
    flops: int | None


def check_file(path: Path) -> None:
    """Raise BadInput for a suffix without a runtime, a missing file or a missing package."""
    if path.suffix not in RUNTIMES:
        raise BadInput(f"{path}: only files that end in {' or '.join(RUNTIMES)} can be run")
    if not path.is_file():
        raise BadInput(f"no such file: {path}")
    if path.suffix == ".pte":
        package_version("executorch", "pip install '.[mobile]' in the checkout")


def size_of(path: Path) -> int:
    """Bytes of a file, with those that an .onnx file keeps its weights in."""
    sizes = [path.stat().st_size]
    if path.suffix == ".onnx":
        import onnx  # here: the memory of a file is measured without it

        graph = onnx.load(path, load_external_data=False).graph
        places = {
            entry.value
            for tensor in graph.initializer
            for entry in tensor.external_data
            if entry.key == "location"
        }
        sizes += [(path.parent / place).stat().st_size for place in places]
    return sum(sizes)


def open_exported(path: Path, threads: int, resolution: int | None = None) -> Exported:
    """Load an .onnx file (ONNX Runtime) or a .pte file (ExecuTorch) on the CPU of this host.

    A free batch size becomes 1, a free height and width `resolution`, or else what the metadata
    say. Raises BadInput naming the file: as `check_file` does, a damaged file, an input that is no
    image or of a free size that nothing says, a file that loads but does not run.
    """
    check_file(path)
    exported = (_open_onnx if path.suffix == ".onnx" else _open_pte)(path, threads, resolution)
    try:
        exported.run()
    except Exception as error:  # the runtimes' classes have no base of their own
        given = f"{exported.dtype} {exported.shape}"
        raise BadInput(f"{path} does not run on {given}: {one_line(error)}") from None
    return exported


def _open_onnx(path: Path, threads: int, resolution: int | None) -> Exported:
    try:
        session = make_session(path, threads)
    except VerificationFailed as error:
        raise BadInput(f"{path}: {error}") from None
    about = session.get_modelmeta().custom_metadata_map
    given = _only(path, session.get_inputs())
    if given.type not in _ONNX_TYPES:
        raise BadInput(f"{path}: its input is a {given.type}; {', '.join(_ONNX_TYPES)} are images")
    shape = _shape(path, given.shape, resolution or _number(about.get(RESOLUTION)))
    dtype = _ONNX_TYPES[given.type]
    feed = {given.name: _image(shape, dtype)}
    return Exported(lambda: session.run(None, feed), shape, dtype, _number(about.get(FLOPS)))


def _open_pte(path: Path, threads: int, resolution: int | None) -> Exported:
    import torch

    from mobilenas.runtimes.executorch import load_program

    try:
        method = load_program(path, threads).load_method("forward")
    except VerificationFailed as error:
        raise BadInput(f"{path}: {error}") from None
    meta = method.metadata
    given = _only(path, [meta.input_tensor_meta(i) for i in range(meta.num_inputs())])
    if given.dtype() not in _SCALAR_TYPES:
        raise BadInput(f"{path}: its input is of ScalarType {given.dtype()}, which no image is")
    shape, dtype = _shape(path, given.sizes(), resolution), _SCALAR_TYPES[given.dtype()]
    image = torch.from_numpy(_image(shape, dtype))
    beside = path.with_name(path.name + ".json")
    about = read_json(beside) if beside.exists() else {}  # it may be of another program
    flops = _number(about.get(FLOPS)) if isinstance(about, dict) else None
    return Exported(lambda: method.execute([image]), shape, dtype, flops)


def _only(path: Path, inputs: Sequence[Any]) -> Any:
    if len(inputs) != 1:
        raise BadInput(f"{path} has {len(inputs)} inputs; an image model has one")
    return inputs[0]


def _shape(path: Path, sizes: Sequence[Any], resolution: int | None) -> tuple[int, ...]:
    """The shape of a single image: the free sizes of a graph are names, None or not positive."""
    if len(sizes) != 4:
        raise BadInput(f"{path}: its input is {list(sizes)}; an image must have four sizes")
    shape = [size if isinstance(size, int) and size > 0 else None for size in sizes]
    shape[0] = shape[0] or 1
    filled = tuple(size or resolution for size in shape)
    if None in filled:
        raise BadInput(f"{path} takes images of any size ({list(sizes)}): --resolution says which")
    return tuple(size for size in filled if size)


def _image(shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
    rng = np.random.default_rng(0)
    if np.issubdtype(np.dtype(dtype), np.integer):
        extent = np.iinfo(dtype)
        return rng.integers(extent.min, extent.max, shape, dtype, endpoint=True)
    return rng.standard_normal(shape).astype(dtype)


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None
