"""Peak memory equals that of running the ONNX graph, tensor by tensor."""

import math
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from mobilenas.cost import CostModel
from mobilenas.export.deployable import deployable
from mobilenas.nn import Network, fold_batch_norm
from mobilenas.nn.saved import NetworkInfo
from mobilenas.runtimes.base import Form
from mobilenas.runtimes.onnx import to_onnx, to_onnx_quickly
from mobilenas.space import Arch, Space, load_space, space_from_dict

# They may write their output where an input was: all that a graph has besides convolutions,
# poolings, splits and concatenations.
IN_PLACE = {"Add", "Clip", "HardSwish", "Mul", "Relu", "Sigmoid"}

RAW = NetworkInfo((), (0.0,) * 3, (1.0,) * 3)


def byte_counts(model: onnx.ModelProto) -> dict[str, int]:
    """Bytes of every tensor that is no weight, for one image."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    graph = inferred.graph
    sizes = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]  # 0: the free batch
        sizes[value.name] = 4 * math.prod(dims)
    return sizes


def operators(graph: onnx.GraphProto) -> list[tuple[str, list[str], list[str]]]:
    """(type, inputs, outputs) of what runs, without weights; swish, which ONNX has as a sigmoid
    and a product of the same tensor, is the one activation that it is everywhere else.
    """
    weights = {tensor.name for tensor in graph.initializer}
    found: list[tuple[str, list[str], list[str]]] = []
    for node in graph.node:
        inputs = [name for name in node.input if name and name not in weights]
        if not inputs:
            weights |= set(node.output)
            continue
        if node.op_type == "Mul" and found and found[-1][0] == "Sigmoid":
            _, read, gate = found[-1]
            if set(inputs) == {*read, *gate}:
                found[-1] = ("Clip", read, list(node.output))
                continue
        found.append((node.op_type, inputs, list(node.output)))
    return found


def peak_bytes(model: onnx.ModelProto) -> int:
    """Run the graph on paper: the most bytes of tensors that are alive at once."""
    sizes, steps = byte_counts(model), operators(model.graph)
    last_use = {name: i for i, (_, inputs, _) in enumerate(steps) for name in inputs}
    outputs_of_graph = {value.name for value in model.graph.output}
    alive = {value.name for value in model.graph.input}
    peak = 0
    for i, (kind, inputs, outputs) in enumerate(steps):
        dead = {name for name in inputs if last_use[name] == i} - outputs_of_graph
        if kind in IN_PLACE:
            (output,) = outputs
            alive.discard(next((n for n in sorted(dead) if sizes[n] == sizes[output]), ""))
        alive |= set(outputs)
        peak = max(peak, sum(sizes[name] for name in alive))
        alive -= dead
    assert alive == outputs_of_graph
    return peak


def simulated(space: Space, arch: Arch, folder: Path) -> int:
    image = torch.zeros(1, space.spec.in_channels, space.resolution, space.resolution)
    model = to_onnx_quickly(fold_batch_norm(Network(space, arch)), image)
    return peak_bytes(onnx.load_from_string(model))


def test_sampled_archs_of_every_space(
    small_space: Space, sample: Callable[..., list[Arch]], tmp_path: Path
) -> None:
    cost_model = CostModel(small_space)
    for arch in sample(small_space, 2):
        assert cost_model.of(arch)["memory"] == simulated(small_space, arch, tmp_path), arch


@pytest.mark.parametrize("resolution", [3, 8, 33])
def test_every_candidate_of_a_mixed_space(
    mixed_space: Space, resolution: int, tmp_path: Path
) -> None:
    space = space_from_dict(mixed_space.to_dict() | {"resolution": resolution})
    cost_model = CostModel(space)
    for i in range(max(len(block.candidates) for block in space.blocks)):
        arch = space.decode(np.array([i % len(block.candidates) for block in space.blocks]))
        assert cost_model.of(arch)["memory"] == simulated(space, arch, tmp_path), arch


class Features(torch.nn.Module):
    """The feature maps of stride 8 and more (the last one if there are none)."""

    def __init__(self, space: Space, arch: Arch) -> None:
        super().__init__()
        self.network = fold_batch_norm(Network(space, arch))
        rows = range(len(self.network.feature_info))
        last = rows[-1]
        self.rows = [r for r in rows if self.network.feature_info[r]["reduction"] >= 8] or [last]
        self.network.prune_intermediate_layers(self.rows)

    def forward(self, x: torch.Tensor) -> Any:
        return self.network.forward_intermediates(x, self.rows, intermediates_only=True)


def test_features_of_backbones_wait_to_the_end(
    small_space: Space, sample: Callable[..., list[Arch]], tmp_path: Path
) -> None:
    cost_model = CostModel(small_space.backbone(40, 70))
    (arch,) = sample(small_space, 1, seed=1)
    image = torch.zeros(1, small_space.spec.in_channels, 40, 70)
    model = to_onnx_quickly(Features(small_space, arch), image)
    assert cost_model.of(arch)["memory"] == peak_bytes(onnx.load_from_string(model))


def waiting_space(**changes: Any) -> Space:
    """Three feature maps of stride 8 and more; the narrow blocks behind them make the peak."""
    stages = [{"channels": 4, "stride": 2}] * 3
    stages += [{"channels": 64, "blocks": 2}, {"channels": 96, "stride": 2, "blocks": 2}]
    stages += [{"channels": 96, "stride": 2, "blocks": 2}]
    data = one_block("e1k3").to_dict() | {"candidates": ["e1k3", "e1k3.5", "e2k35"]}
    return space_from_dict(data | {"stages": stages} | changes)


@pytest.mark.parametrize("candidate", ["e1k3", "e1k3.5", "e2k35"])
def test_features_that_wait_make_the_peak(candidate: str, tmp_path: Path) -> None:
    for changes in ({}, {"squeeze_excite": 0.5}):
        space = waiting_space(candidates=[candidate], **changes)
        arch = space.parse("_".join([candidate] * len(space.blocks)))
        image = torch.zeros(1, 1, 24, 40)
        model = to_onnx_quickly(Features(space, arch), image)
        peak = peak_bytes(onnx.load_from_string(model))
        assert CostModel(space.backbone(24, 40)).of(arch)["memory"] == peak


def one_block(
    candidate: str, *, stem: int = 8, resolution: int = 9, channels: int = 8, **stage: object
) -> Space:
    """A space in which nothing but the block can make the peak."""
    return space_from_dict(
        {
            "name": "one",
            "description": "one block",
            "resolution": resolution,
            "num_classes": 2,
            "in_channels": 1,
            "stem": {"channels": stem, "kernel": 1},
            "candidates": [candidate],
            "stages": [{"channels": channels, **stage}],
            "head": {"channels": 1},
        }
    )


CANDIDATES = ("e1k3", "e1k35", "e1k357", "e3k3", "e3k35", "e3k579")
CANDIDATES += ("e1k3.5", "e3k3.5", "e1k35.57", "e2k35.57.79")
STAGES: tuple[dict[str, Any], ...] = (
    {},
    {"stride": 2},
    {"stem": 12},
    {"stem": 7, "channels": 7},  # channel groups of unequal widths
    {"squeeze_excite": 4.0, "resolution": 1},  # where the squeezed features count
    {"activation": "swish"},
)


@pytest.mark.parametrize("candidate", CANDIDATES)
def test_a_block_of_each_kind_makes_the_peak(candidate: str, tmp_path: Path) -> None:
    for stage in STAGES:
        space = one_block(candidate, **stage)
        arch = space.parse(candidate)
        memory = CostModel(space).of(arch)["memory"]
        assert memory == simulated(space, arch, tmp_path), stage


@pytest.mark.parametrize(
    "other",
    [
        {"in_channels": 200},  # the stem
        {"stages": [{"channels": 8, "fixed": "e9k3"}, {"channels": 8}]},
        {"head": {"channels": 500}},  # the last convolution
        {"head": {"channels": 500}, "resolution": 1},  # the pooling
        {"num_classes": 900, "resolution": 1},  # the classifier
    ],
    ids=["stem", "fixed", "head", "pooling", "classifier"],
)
def test_what_every_arch_has_makes_the_peak(other: dict[str, Any], tmp_path: Path) -> None:
    space = space_from_dict(one_block("e1k3").to_dict() | other)
    arch = space.parse("e1k3")
    assert CostModel(space).of(arch)["memory"] == simulated(space, arch, tmp_path)


def test_the_exported_file_runs_in_the_same_order(mixed_space: Space) -> None:
    arch = mixed_space.decode(mixed_space.num_candidates - 1)
    model = onnx.load_from_string(to_onnx(*deployable(Network(mixed_space, arch), RAW, Form())))
    assert CostModel(mixed_space).of(arch)["memory"] == peak_bytes(model)


def test_range_equals_enumeration() -> None:
    space = load_space("macro")
    memory = CostModel(space).batch("memory", np.array(list(product(range(3), repeat=8))))
    found = CostModel(space).range("memory")
    assert (found.minimum, found.maximum) == (memory.min(), memory.max())
    assert found.minimum < found.median < found.maximum


def test_a_network_counted_by_hand() -> None:
    space = load_space("macro")
    arch = space.parse("_".join(["e6k5", *["id"] * 7]))
    # In the first block, stride 2, the depthwise convolution reads 192 maps of 32 x 32 and writes
    # 192 of 16 x 16. Its expansion has 32 + 192 maps, no later layer as many elements.
    assert CostModel(space).of(arch)["memory"] == 4 * 192 * (32 * 32 + 16 * 16)
