"""One part of the installation tried out, in a process that does only that.

python -m mobilenas.stages.trial RUNTIME|detection
"""

import json
import sys
from typing import Any

import torch
from torch import Tensor, nn

from mobilenas.base.errors import one_line
from mobilenas.runtimes.base import Form
from mobilenas.runtimes.registry import runtime_class

_TOLERANCE = {"fp32": 1e-4, "fp16": 1e-2}  # of logits of about 1


class _Small(nn.Module):
    """A convolution and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU6())
        self.classifier = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.body(x).mean((2, 3)))
        return logits


def try_runtime(name: str) -> dict[str, Any]:
    """Convert a small network, run it on random pixels, and compare the logits with torch's."""
    network, example = _Small().eval(), torch.rand(1, 3, 16, 16)
    runtime = runtime_class(name)(1)
    run = runtime.load(runtime.convert(network, example, Form(batch=1), None).files)
    with torch.no_grad():
        difference = float((torch.from_numpy(run(example.numpy())) - network(example)).abs().max())
    ran = difference <= _TOLERANCE[runtime.dtypes[0]]
    problem = {} if ran else {"problem": f"logits differ from torch's by {difference:.1e}"}
    return {"ran": ran, "difference": difference, **problem}


def try_detection() -> dict[str, Any]:
    """Import all that `mobilenas detect` needs."""
    import mobilenas.detect  # noqa: F401

    return {"ran": True}


if __name__ == "__main__":
    part = sys.argv[1]
    try:
        answer = try_detection() if part == "detection" else try_runtime(part)
    except Exception as error:  # whatever a package that is broken raises
        answer = {"ran": False, "problem": one_line(error)}
    print(json.dumps(answer))
