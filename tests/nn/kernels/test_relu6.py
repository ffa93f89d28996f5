"""Our ReLU6 against torch's: values, gradients, no copy, ordinary to tracers."""

import torch
from torch import nn

from mobilenas.nn.kernels.relu6 import ReLU6


def values() -> torch.Tensor:
    x = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(0)) * 5
    x.view(-1)[:4] = torch.tensor([0.0, 6.0, -0.0, 7.0])
    return x


def test_values_and_gradients_are_those_of_torch() -> None:
    grads = []
    for act in (nn.ReLU6(), ReLU6(inplace=True)):
        x = values().requires_grad_()
        y = act(x * 1.0)
        y.backward(values().flip(0))
        grads.append((y.detach(), x.grad))
    assert torch.equal(grads[0][0], grads[1][0])
    assert torch.equal(grads[0][1], grads[1][1])


def test_training_works_in_place_and_keeps_only_the_output() -> None:
    hidden = values().requires_grad_() * 1.0
    y = ReLU6(inplace=True)(hidden)
    assert y.data_ptr() == hidden.data_ptr()
    assert "InPlaceReLU6" in y.grad_fn.name()
    assert y.grad_fn.saved_tensors[0].data_ptr() == y.data_ptr()


def test_evaluation_and_tracers_see_the_ordinary_one() -> None:
    act = ReLU6(inplace=True)
    with torch.no_grad():
        assert act(values()).grad_fn is None
    traced = torch.jit.trace(act, values())
    assert "hardtanh" in str(traced.graph) or "relu6" in str(traced.graph)
    assert torch.jit.script(act)(values()).max() <= 6
    exported = torch.export.export(act, (values(),))
    assert torch.equal(exported.module()(values()), nn.ReLU6()(values()))


def test_in_place_it_is_exported_with_bounds_that_are_floats() -> None:
    exported = torch.export.export(ReLU6(inplace=True), (values(),)).run_decompositions({})
    (bounds,) = (node.args[1:] for node in exported.graph.nodes if "hardtanh" in str(node.target))
    assert [type(bound) for bound in bounds] == [float, float]
