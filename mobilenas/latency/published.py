"""What others published on latency, read and checked: times of blocks, of networks, sums of blocks.

A published block gets the key of `mobilenas.cost.rows` where it is exactly a block that a space can
have, and else one that no space makes, so that no table says of a block what was timed on another:

    block-136x14x14-136x14x14-k3-hidden408-se104-hard_swish     its squeeze-excite is not ours
    block-24x32x32-24x32x32-e1k3-relu-pw-g2                     1x1 convolution at expansion 1
    conv1x1-192x7x7-1152x7x7-hard_swish, pool-1152x7x7, linear-1536-1000      parts of a head
"""

import re
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow
from numpy.typing import NDArray
from pyarrow import parquet
from pydantic import ConfigDict

from mobilenas.base.errors import BadInput
from mobilenas.base.files import read_json
from mobilenas.base.settings import Record, validated
from mobilenas.cost.latency import Milliseconds, Positive
from mobilenas.cost.rows import block_key
from mobilenas.space import Block, Candidate
from mobilenas.space.spec import Activation

_BLOCK = re.compile(
    r"expanded_conv-input:(?P<size>\d+)x(?P=size)x(?P<cin>\d+)"
    r"-output:(?P<out_size>\d+)x(?P=out_size)x(?P<cout>\d+)"
    r"-expand:(?P<expand>\d+)-kernel:(?P<kernel>\d)-stride:(?P<stride>\d)-idskip:(?P<shortcut>[01])"
    r"(?:-se:(?P<se>[01])-hs:(?P<hs>[01]))?"
)
_PART = re.compile(
    r"(?P<kind>Conv|Conv_1|Conv_2|AvgPool2D|Logits)-input:(?P<size>\d+)x(?P=size)x(?P<cin>\d+)"
    r"-output:(?:(?P<out_size>\d+)x(?P=out_size)x)?(?P<cout>\d+)"
)
_OPERATION = re.compile(r"k(?P<kernel>\d)_e(?P<expansion>\d)(?P<grouped>_g2)?")

T = TypeVar("T")


class _Published(Record):
    model_config = ConfigDict(extra="ignore")  # files say more than is read here


class Timing(_Published):
    """Mean of `count` runs, ms, with their variance (ms²) or their standard deviation (ms)."""

    count: Positive
    mean: Milliseconds
    var: Milliseconds | None = None
    std: Milliseconds | None = None

    @property
    def deviation(self) -> float:
        """Standard deviation, ms."""
        return self.std if self.std is not None else float(self.var or 0.0) ** 0.5


class NetworkBlock(_Published):
    """A block of a published network: channels, kernel, stride, hidden channels (None: as cin)."""

    cin: int
    cout: int
    k: int
    s: int
    mid: int | None
    act: str
    se: bool


class Channels(_Published):
    cin: int
    cout: int


class Network(_Published):
    """A published network. latency_ms: None where none was published."""

    name: str
    device: str
    latency_ms: float | None
    resolution: int
    first_conv: int
    blocks: tuple[NetworkBlock, ...]
    final_expand: Channels | None
    feature_mix: Channels


class SumLayer(_Published):
    """Geometry of a layer. hw_in: side of its input."""

    cin: int
    cout: int
    stride: int
    hw_in: int


class SumDevice(_Published):
    """const_ms, and what each layer takes with each operation beyond the skip, ms."""

    const_ms: float
    block_minus_skip_ms: tuple[tuple[Milliseconds, ...], ...]


class BlockSums(_Published):
    """Latencies of networks that are exact sums over their layers."""

    primitives: tuple[str, ...]
    layers: tuple[SumLayer, ...]
    devices: dict[str, SumDevice]


def read_published(path: Path, shape: type[T]) -> T:
    """A JSON file of that shape. Raises BadInput naming the file and the key that is wrong."""
    return validated(shape, read_json(path), path)


def read_columns(path: Path, names: list[str]) -> NDArray[Any]:
    """Columns (rows, columns) of a parquet file. Raises BadInput naming the file and the column."""
    try:
        table = parquet.read_table(path, columns=names)
    except FileNotFoundError:
        raise BadInput(f"no such file: {path}") from None
    except (pyarrow.ArrowException, OSError) as error:
        raise BadInput(f"{path} is not parquet: {str(error).splitlines()[0]}") from None
    for name in names:
        if name not in table.column_names:
            raise BadInput(f"{path} lacks the column {name!r}")
    return np.stack([table[name].to_numpy() for name in names], axis=1)


def bottleneck_key(
    cin: int,
    size: int,
    cout: int,
    stride: int,
    kernel: int,
    hidden: int,
    activation: Activation,
    squeeze_excite: bool = False,
) -> str:
    """Key of an inverted bottleneck with so many hidden channels, on an input of side `size`.

    squeeze_excite is Once-for-All's, a share of the hidden channels; ours is one of the input.
    """
    expansion, rest = divmod(hidden, cin)
    block = Block("", cin, cout, stride, size, (), False, activation, 0.0)
    key = block_key(block, Candidate(max(expansion, 1), ((kernel,),)))
    assert key is not None
    if not rest and not squeeze_excite:
        return key
    shapes = "-".join(key.split("-")[:3])
    squeezed = f"-se{_squeezed(hidden)}" if squeeze_excite else ""
    return f"{shapes}-k{kernel}-hidden{hidden}{squeezed}-{activation}"


def table_key(text: str, *, ratio: bool) -> str:
    """Our key of a key of a published block table. Raises BadInput for one that is not known.

    ratio: `expand` is the expansion and activations are ReLU6 (ProxylessNAS); else `expand` is the
    number of hidden channels and activations are those of MobileNetV3 (Once-for-All).
    """
    if match := _BLOCK.fullmatch(text):
        part = {name: int(value or 0) for name, value in match.groupdict().items()}
        cin, cout, size, stride = part["cin"], part["cout"], part["size"], part["stride"]
        shortcut = stride == 1 and cin == cout
        if shortcut != bool(part["shortcut"]) or part["out_size"] != -(-size // stride):
            raise BadInput(f"{text}: idskip or output are not those of its shape and stride")
        hidden = part["expand"] * cin if ratio else part["expand"]
        activation: Activation = "relu6" if ratio else "hard_swish" if part["hs"] else "relu"
        return bottleneck_key(
            cin, size, cout, stride, part["kernel"], hidden, activation, bool(part["se"])
        )
    if match := _PART.fullmatch(text):
        return _part_key(match.groupdict(), "relu6" if ratio else "hard_swish")
    raise BadInput(f"{text} is no layer of a published table")


def operation_key(layer: SumLayer, operation: str) -> str | None:
    """Our key of an operation of the FBNet space; None for its skip.

    Its blocks have a 1x1 convolution at expansion 1 too, and grouped ones (`g2`). Raises BadInput.
    """
    if operation == "skip":
        return None
    match = _OPERATION.fullmatch(operation)
    if match is None:
        raise BadInput(f"{operation} is no operation of the FBNet space")
    expansion = int(match["expansion"])
    key = bottleneck_key(
        layer.cin,
        layer.hw_in,
        layer.cout,
        layer.stride,
        int(match["kernel"]),
        expansion * layer.cin,
        "relu",
    )
    return key + "-pw" * (expansion == 1) + "-g2" * bool(match["grouped"])


def network_keys(network: Network) -> list[str]:
    """Our keys of a published MobileNetV3 for ImageNet; none for a network with another head."""
    if network.final_expand is None:
        return []
    size = -(-network.resolution // 2)
    image = network.resolution
    texts = [f"Conv-input:{image}x{image}x3-output:{size}x{size}x{network.first_conv}"]
    for block in network.blocks:
        out = -(-size // block.s)
        shortcut = int(block.s == 1 and block.cin == block.cout)
        texts.append(
            f"expanded_conv-input:{size}x{size}x{block.cin}-output:{out}x{out}x{block.cout}"
            f"-expand:{block.mid or block.cin}-kernel:{block.k}-stride:{block.s}-idskip:{shortcut}"
            f"-se:{int(block.se)}-hs:{int(block.act == 'h_swish')}"
        )
        size = out
    wide, last = network.final_expand, network.feature_mix
    texts += [
        f"Conv_1-input:{size}x{size}x{wide.cin}-output:{size}x{size}x{wide.cout}",
        f"AvgPool2D-input:{size}x{size}x{wide.cout}-output:1x1x{wide.cout}",
        f"Conv_2-input:1x1x{last.cin}-output:1x1x{last.cout}",
        f"Logits-input:1x1x{last.cout}-output:1000",
    ]
    return [table_key(text, ratio=False) for text in texts]


def _squeezed(hidden: int) -> int:
    """Width of Once-for-All's `SEModule`: a quarter, to a multiple of 8, never below 90 %."""
    width = max(8, (hidden // 4 + 4) // 8 * 8)
    return width + 8 if width < 0.9 * (hidden // 4) else width


def _part_key(part: dict[str, str | None], activation: Activation) -> str:
    kind, size, cin, cout = (part[name] for name in ("kind", "size", "cin", "cout"))
    if kind == "Conv":
        out = part["out_size"]
        return f"stem-{cin}x{size}x{size}-{cout}x{out}x{out}-k3-{activation}"
    if kind == "AvgPool2D":
        return f"pool-{cin}x{size}x{size}"
    if kind == "Logits":
        return f"linear-{cin}-{cout}"
    return f"conv1x1-{cin}x{size}x{size}-{cout}x{size}x{size}-{activation}"
