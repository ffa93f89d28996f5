"""ExecuTorch with the XNNPACK delegate: .pte files, fp32 and int8, and running them on this host.

What XNNPACK does not take runs in ExecuTorch's own kernels: of a network that is the pooling, of a
block nothing (tests/runtimes), of a preprocessing the permutation and the conversion to float.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mobilenas.base.errors import VerificationFailed, one_line
from mobilenas.runtimes.base import (
    Batches,
    Converted,
    Dtype,
    Feed,
    Files,
    Floats,
    Form,
    Inputs,
    Run,
    Runtime,
    batches_of,
    package_version,
    silence,
    timed,
)

_SCHEME = "static, symmetric, weights by channel (XNNPACKQuantizer)"


class ExecuTorch(Runtime):
    """A .pte file has one batch size, which its memory is planned for."""

    name = "executorch"
    suffixes = (".pte",)
    dtypes: tuple[Dtype, ...] = ("fp32", "int8")
    batches: Batches = "fixed"
    takes_bytes = True

    def __init__(self, threads: int | None = None) -> None:
        self.version = package_version("executorch", "pip install '.[mobile]' in the checkout")
        self._threads = threads

    def convert(
        self, module: nn.Module, example: Tensor, form: Form, calibration: Feed | None
    ) -> Converted:
        """One .pte file."""
        if calibration is None:
            return Converted({self.suffix: lower(module, example)})
        quantised = quantise(module, example, calibration.ranges)
        return Converted({self.suffix: lower(quantised, example)}, _SCHEME)

    def load(self, files: Files) -> Run:
        """The method `forward` of the program."""
        program = load_program(files[self.suffix], self._threads)

        def run(inputs: Inputs) -> Floats:
            # Through the program, which is loaded once: it alone keeps the bytes that both read.
            (logits,) = program.load_method("forward").execute([torch.from_numpy(inputs)])
            copied: Floats = logits.numpy().copy()  # the next run writes to the same memory
            return copied

        return run

    def time(self, path: Path, example: Inputs, seconds: float) -> list[float]:
        """As of all runtimes, but without the copy that a run makes of what comes out."""
        method = load_program(path, self._threads).load_method("forward")
        inputs = [torch.from_numpy(example)]
        return timed(lambda: method.execute(inputs), seconds)


def load_program(file: bytes | Path, threads: int | None) -> Any:
    """ExecuTorch's program, its method `forward` ready; threads: None for torch's number.

    Raises VerificationFailed where ExecuTorch refuses it.
    """
    set_threads(threads or torch.get_num_threads())
    try:
        with silence():
            from executorch import runtime

            program = runtime.Runtime.get().load_program(file)
            program.load_method("forward")
    except Exception as error:
        raise VerificationFailed(f"ExecuTorch does not load it: {one_line(error)}") from error
    return program


def lower(module: nn.Module, example: Tensor) -> bytes:
    """The .pte file of a module in eval mode, for inputs of the shape of `example`.

    Batch norms should be folded: XNNPACK folds those that are not, which takes twice as long.
    """
    with silence():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        exported = torch.export.export(module, (example,), strict=False)
        lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
        return bytes(lowered.to_executorch().buffer)


def set_threads(count: int) -> None:
    """Give ExecuTorch's pool that many threads.

    A method keeps the pool that it finds when it is loaded: those loaded before must not run again
    where the number changes.
    """
    with silence():  # it tells which files it looked for in vain
        from executorch.extension.pybindings import portable_lib

        if portable_lib._threadpool_get_thread_count() != count:
            portable_lib._unsafe_reset_threadpool(count)


def quantise(module: nn.Module, example: Tensor, images: Inputs) -> nn.Module:
    """A module with int8 weights and activations, whose ranges come from images as it takes them.

    Post-training quantisation of the exported graph (PT2E): weights symmetric, a scale for each
    channel; activations int8 with a zero point, ranges by histograms.
    """
    with silence():
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
            XNNPACKQuantizer,
            get_symmetric_quantization_config,
        )
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        config = get_symmetric_quantization_config(is_per_channel=True)
        graph = torch.export.export(module, (example,), strict=False).module()
        observed = prepare_pt2e(graph, XNNPACKQuantizer().set_global(config))
        with torch.no_grad():
            for batch in batches_of(images, len(example)):
                observed(torch.from_numpy(batch))
        quantised: nn.Module = convert_pt2e(observed)
        return quantised
