"""Means over processes, of tensors that are not alike."""

import pytest
import torch
from torch import Tensor

from mobilenas.train.distributed import Processes


def test_tensors_of_several_devices_and_types_are_averaged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As gradients of the architecture, on the CPU, and of weights are."""
    sent: list[Tensor] = []

    def mean(self: Processes, values: Tensor) -> Tensor:
        sent.append(values)
        return values / 2

    monkeypatch.setattr(Processes, "mean", mean)
    wide, far = torch.full((2,), 4.0).double(), torch.ones(5, device="meta")
    ones = [torch.ones(3), torch.ones(2, 2)]
    Processes(0, 2).average([ones[0], far, wide, ones[1]])
    assert [(s.device.type, len(s)) for s in sent] == [("cpu", 7), ("meta", 5), ("cpu", 2)]
    assert torch.equal(torch.cat([each.flatten() for each in ones]), torch.full((7,), 0.5))
    assert torch.equal(wide, torch.full((2,), 2.0).double())
