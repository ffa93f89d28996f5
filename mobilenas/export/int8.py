"""What must be true of an int8 ONNX model: it is the float32 one, rounded in the ranges it saw.

No measure on logits tells a wrong constant from rounding, so all that can be computed is checked:
the graph, every weight, scale, zero point and bias, and the range of every activation.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from mobilenas.base.errors import VerificationFailed
from mobilenas.runtimes.base import INPUT, Inputs
from mobilenas.runtimes.onnx_session import make_session
from mobilenas.runtimes.quantize import BATCH, merged

Arrays = dict[str, npt.NDArray[np.generic]]
Values = npt.NDArray[np.float64]

_HALF_A_STEP = 0.501  # the quotient that was rounded is a float32
_BIAS_STEPS = 1.0  # means of inputs are sums in another order, and a half may be rounded up or down
_SAME = 1e-5  # of scales: quotients in float32
_LARGEST_BIAS = (2**31 - 1) / 1.0001  # in steps, as ONNX Runtime's quantiser leaves room
_CLIPPED = 2e-5  # of the values: percentile ranges leave out 1e-5
_INTO_FLOAT = "_QuantizeLinear_Input"  # the quantiser puts it to the name of the last tensor


def check_int8(model: bytes, plain: bytes, ranges: Inputs) -> None:
    """Check an int8 model against the float32 one and the inputs that its ranges are from.

    Raises VerificationFailed naming the node or tensor.
    """
    _Check(onnx.load_from_string(model).graph, onnx.load_from_string(plain), ranges).run()


class _Check:
    def __init__(self, graph: onnx.GraphProto, plain: onnx.ModelProto, ranges: Inputs) -> None:
        self.graph, self.plain, self.ranges = graph, plain, ranges
        self.stored, self.floats = (
            {tensor.name: numpy_helper.to_array(tensor) for tensor in each.initializer}
            for each in (graph, plain.graph)
        )
        self.sources = {node.output[0]: node for node in graph.node}

    def run(self) -> None:
        """All checks, the graph first: the others rely on it."""
        self._check_graph()
        steps = dict(self._steps())
        means = self._check_ranges(steps)
        nodes = {node.name: node for node in self.graph.node}
        for node in self.plain.graph.node:
            if node.op_type in ("Conv", "Gemm"):
                found = nodes[node.name]
                scale = self._check_weight(found, node, steps[node.input[0]][0])
                step = scale * steps[node.input[0]][0]
                self._check_bias(found, node, scale, step, means[node.input[0]])

    def _check_graph(self) -> None:
        """The nodes of the float model but for merged ones, with their attributes and inputs."""
        gone = merged(self.plain)
        kept = {n.name: n for n in self.plain.graph.node if n.input[0] not in gone}
        pairs = ("QuantizeLinear", "DequantizeLinear")
        given = {n.name: n for n in self.graph.node if n.op_type not in pairs}
        if given.keys() != kept.keys():
            raise VerificationFailed(f"other nodes: {sorted(given.keys() ^ kept.keys())[0]}")
        for name, node in kept.items():
            found = given[name]
            same = found.op_type == node.op_type and _attributes(found) == _attributes(node)
            inputs = [self._float_name(value) for value in found.input[:1]]
            if not same or inputs != list(node.input[:1]) or len(found.input) != len(node.input):
                raise VerificationFailed(f"{name} is not the node of the float model")
            if node.op_type in ("Conv", "Gemm"):
                continue
            for value, wanted in zip(found.input[1:], node.input[1:], strict=True):
                if wanted in self.floats:
                    self._check_constant(name, value, self.floats[wanted])
                elif self._float_name(value) != wanted:
                    raise VerificationFailed(f"{name} has another input than {wanted}")

    def _check_constant(self, name: str, value: str, wanted: npt.NDArray[np.generic]) -> None:
        """A constant of any other node, as it is or in 8 bits."""
        source = self.sources.get(value)
        if source is None:
            same = np.array_equal(self.stored[value], wanted)
        else:
            given, scale, zero = (self.stored[x].astype(np.float64) for x in source.input)
            same = bool((np.abs((given - zero) * scale - wanted) <= _HALF_A_STEP * scale).all())
        if not same:
            raise VerificationFailed(f"a constant of {name} is another one")

    def _float_name(self, value: str) -> str:
        """The float tensor that a node takes through QuantizeLinear and DequantizeLinear."""
        source = self.sources.get(value)
        if source is None or source.op_type != "DequantizeLinear":
            return value
        before = self.sources.get(source.input[0])
        return value if before is None else before.input[0].removesuffix(_INTO_FLOAT)

    def _steps(self) -> Iterator[tuple[str, tuple[float, float]]]:
        """Scale and zero point of each activation; a pair must agree on them."""
        for node in self.graph.node:
            if node.op_type != "DequantizeLinear" or node.input[0] in self.stored:
                continue
            before = self.sources[node.input[0]]
            scale, zero = (self.stored[name] for name in node.input[1:])
            there = [self.stored[name] for name in before.input[1:]]
            name = before.input[0].removesuffix(_INTO_FLOAT)
            if scale != there[0] or zero != there[1] or zero.dtype != np.uint8:
                raise VerificationFailed(f"{name} is written with one scale, read with another")
            yield name, (float(scale), float(zero))

    def _check_ranges(self, steps: dict[str, tuple[float, float]]) -> dict[str, Values]:
        """Mean of each activation by channel; its range must be what was seen, but for outliers."""
        proto = onnx.shape_inference.infer_shapes(self.plain)
        there = {value.name for value in (*proto.graph.input, *proto.graph.output)}
        proto.graph.output.extend(
            v for v in proto.graph.value_info if v.name in steps.keys() - there
        )
        session = make_session(proto.SerializeToString())
        names = sorted(steps.keys() - {INPUT})
        seen = {name: _Seen(*step) for name, step in steps.items()}
        for start in range(0, len(self.ranges), BATCH):
            batch = self.ranges[start : start + BATCH]
            values = dict(zip(names, session.run(names, {INPUT: batch}), strict=True))
            for name in steps:
                seen[name].add(values.get(name, batch))
        whole = {
            part: node.input[0]
            for node in self.plain.graph.node
            if node.op_type == "Split"
            for part in node.output
        }
        for name, tensor in seen.items():
            # ONNX Runtime reads the parts of a split by the scale of the whole, which is checked.
            if name not in whole or steps[name] != steps.get(whole[name]):
                tensor.check(name)
        return {name: tensor.sums / len(self.ranges) for name, tensor in seen.items()}

    def _check_weight(self, found: onnx.NodeProto, node: onnx.NodeProto, step: float) -> Values:
        """Scales of the weight of a node, by channel. step: of its input.

        A channel whose weights are tiny beside its bias has a larger scale, or the bias would not
        fit into int32.
        """
        source = self.sources.get(found.input[1])
        if source is None or source.op_type != "DequantizeLinear":
            raise VerificationFailed(f"the weight of {node.name} is not quantised")
        wanted = self.floats[node.input[1]]
        given, scale, zero = (self.stored[name] for name in source.input)
        if given.dtype != np.int8 or given.shape != wanted.shape or zero.any():
            raise VerificationFailed(f"the weight of {node.name} is not int8 of its shape")
        largest = np.abs(wanted).reshape(len(wanted), -1).max(axis=1)
        bias = self.floats[node.input[2]] if len(node.input) > 2 else np.zeros(len(wanted))
        least = np.abs(bias.astype(np.float64)) / (_LARGEST_BIAS * step)
        expected = np.maximum(largest / 127, least)
        if not (np.abs(expected - scale) <= _SAME * scale)[largest > 1e-30].all():
            raise VerificationFailed(f"a scale of {node.name} is not 1/127 of the largest weight")
        step = scale.reshape(-1, *[1] * (wanted.ndim - 1))
        off = np.abs(given * step - wanted) / step
        if not off.max() <= _HALF_A_STEP:
            raise VerificationFailed(
                f"a weight of {node.name} is off by {off.max():.3g} steps; half a step is rounding"
            )
        return scale.astype(np.float64)

    def _check_bias(
        self, found: onnx.NodeProto, node: onnx.NodeProto, scale: Values, step: Values, mean: Values
    ) -> None:
        """int32 in units of `step`, and less what the rounding of weights adds on average."""
        if len(node.input) < 3:
            return
        source = self.sources.get(found.input[2])
        if source is None or source.op_type != "DequantizeLinear":
            raise VerificationFailed(f"the bias of {node.name} is not quantised")
        given, unit, zero = (self.stored[name] for name in source.input)
        if given.dtype != np.int32 or zero.any() or not np.allclose(unit, step, rtol=_SAME, atol=0):
            raise VerificationFailed(f"the bias of {node.name} has another scale than its input")
        weight = self.stored[self.sources[found.input[1]].input[0]]
        error = weight * scale.reshape(-1, *[1] * (weight.ndim - 1)) - self.floats[node.input[1]]
        error = error.sum(axis=tuple(range(2, weight.ndim)))
        groups = len(mean) // error.shape[1]
        shift = (error.reshape(groups, -1, error.shape[1]) @ mean.reshape(groups, -1, 1)).ravel()
        wanted = (self.floats[node.input[2]].astype(np.float64) - shift) / step
        off = np.abs(given - wanted) - _SAME * np.abs(wanted)
        if not off.max() <= _BIAS_STEPS:
            raise VerificationFailed(
                f"a bias of {node.name} is off by {off.max():.3g} steps; one is rounding"
            )


class _Seen:
    """Values of one activation, against the range that 8 bits stand for."""

    def __init__(self, scale: float, zero: float) -> None:
        self.scale, self.low, self.high = scale, -zero * scale, (255 - zero) * scale
        self.lowest = self.highest = 0.0  # the range has 0 in it
        self.outside = self.count = 0
        self.sums: Values = np.zeros(())

    def add(self, values: Inputs) -> None:
        """One batch of values, (n, channels, ...)."""
        self.lowest = min(self.lowest, float(values.min()))
        self.highest = max(self.highest, float(values.max()))
        clipped = (values < self.low - self.scale) | (values > self.high + self.scale)
        self.outside, self.count = self.outside + int(clipped.sum()), self.count + values.size
        means = values.mean(axis=tuple(range(2, values.ndim)), dtype=np.float64)
        self.sums = self.sums + means.sum(axis=0)

    def check(self, name: str) -> None:
        """Raise VerificationFailed for a range that is wider, or leaves out more than outliers. Of
        values that are all 0 there is none to compare with.
        """
        if self.lowest == self.highest:
            return
        wide = max(self.lowest - self.low, self.high - self.highest)
        if wide > 1.001 * self.scale or self.outside > 1 + _CLIPPED * self.count:
            raise VerificationFailed(
                f"the range of {name} is {self.low:.3g} to {self.high:.3g}; its values were "
                f"{self.lowest:.3g} to {self.highest:.3g}"
            )


def _attributes(node: onnx.NodeProto) -> dict[str, bytes]:
    return {each.name: each.SerializeToString(deterministic=True) for each in node.attribute}
