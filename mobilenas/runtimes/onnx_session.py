"""ONNX Runtime's session of a model; without torch where the number of threads is given."""

from pathlib import Path

import onnxruntime as ort

from mobilenas.base.errors import VerificationFailed, one_line


def make_session(model: bytes | Path, threads: int | None = None) -> ort.InferenceSession:
    """ONNX Runtime's session on the CPU; threads: None for torch's. Raises VerificationFailed."""
    if threads is None:
        import torch

        threads = torch.get_num_threads()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # errors are raised as well; do not print them too
    try:
        return ort.InferenceSession(
            model,
            options,
            providers=["CPUExecutionProvider"],
            enable_fallback=0,  # it prints to stdout, and would try the same provider again
        )
    except Exception as error:  # ONNX Runtime's classes have no base of their own
        raise VerificationFailed(f"ONNX Runtime does not load it: {one_line(error)}") from error
