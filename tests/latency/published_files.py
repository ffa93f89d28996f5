"""Small files of the shape of the published ones, with times drawn at random."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from pyarrow import parquet

from mobilenas.latency.imports import (
    BLOCK_SUMS,
    BLOCK_TABLES,
    FBNET_DEVICES,
    NETWORK_TIMES,
    NETWORKS,
    NOTE10_RESOLUTIONS,
    PROXYLESS,
)

OPERATIONS = ["k3_e1", "k3_e1_g2", "k3_e3", "k3_e6", "k5_e1", "k5_e1_g2", "k5_e3", "k5_e6", "skip"]
STAGES = [(24, 112, 2), (40, 56, 2), (80, 28, 2), (96, 14, 1), (192, 14, 2), (320, 7, 1)]


def proxyless_key(cin: int, size: int, cout: int, stride: int, expand: int, kernel: int) -> str:
    out, shortcut = size // stride, int(stride == 1 and cin == cout)
    return (
        f"expanded_conv-input:{size}x{size}x{cin}-output:{out}x{out}x{cout}"
        f"-expand:{expand}-kernel:{kernel}-stride:{stride}-idskip:{shortcut}"
    )


def write_published(root: Path, seed: int = 0) -> Path:
    """All four files under root/latency; the root."""
    rng = np.random.default_rng(seed)
    folder = root / "latency"
    folder.mkdir(parents=True)
    (folder / BLOCK_TABLES).write_text(json.dumps(_block_tables(rng)))
    (folder / NETWORKS).write_text(json.dumps([_network()]))
    sums = _block_sums(rng)
    (folder / BLOCK_SUMS).write_text(json.dumps(sums))
    genes = rng.integers(0, len(OPERATIONS), size=(30, len(sums["layers"])))
    columns: dict[str, Any] = {f"op{i:02}": genes[:, i] for i in range(genes.shape[1])}
    for device, part in sums["devices"].items():
        ms = np.array(part["block_minus_skip_ms"])[np.arange(genes.shape[1]), genes].sum(axis=1)
        columns[f"lat_{device}_ms"] = (part["const_ms"] + ms).astype(np.float32)
    parquet.write_table(pyarrow.table(columns), folder / NETWORK_TIMES)
    return root


def _timing(rng: np.random.Generator) -> dict[str, float]:
    return {"count": int(rng.integers(50, 900)), "mean": float(rng.uniform(1, 9)), "var": 0.04}


def _block_tables(rng: np.random.Generator) -> dict[str, Any]:
    keys = [
        "Conv-input:224x224x3-output:112x112x32",
        "Conv_1-input:7x7x320-output:7x7x1280",
        "Logits-input:7x7x1280-output:1000",
    ]
    keys += [proxyless_key(32, 112, 16, 1, 1, kernel) for kernel in (3, 5, 7)]
    before = 16
    for cout, size, stride in STAGES:
        for expand in (3, 6):
            for kernel in (3, 5, 7):
                keys.append(proxyless_key(before, size, cout, stride, expand, kernel))
                if cout != 320:
                    keys.append(proxyless_key(cout, size // stride, cout, 1, expand, kernel))
        before = cout
    tables = {name: {key: _timing(rng) for key in keys} for name in PROXYLESS}
    for size in NOTE10_RESOLUTIONS:
        times = {
            f"Conv-input:{size}x{size}x3-output:{size // 2}x{size // 2}x24": 1.0,
            f"expanded_conv-input:{size // 2}x{size // 2}x24-output:{size // 4}x{size // 4}x32"
            "-expand:96-kernel:5-stride:2-idskip:0-se:1-hs:1": 2.0,
            f"Conv_1-input:{size // 4}x{size // 4}x32-output:{size // 4}x{size // 4}x64": 3.0,
            f"AvgPool2D-input:{size // 4}x{size // 4}x64-output:1x1x64": 4.0,
            "Conv_2-input:1x1x64-output:1x1x128": 5.0,
            "Logits-input:1x1x128-output:1000": 6.0,
        }
        tables[f"ofa_note10_{size}"] = {
            key: {"count": 500, "mean": mean, "std": 0.1} for key, mean in times.items()
        }
    return tables


def _network() -> dict[str, Any]:
    """A network of all rows of ofa_note10_224, 21 ms."""
    block = {"cin": 24, "cout": 32, "k": 5, "s": 2, "t": 4, "mid": 96, "act": "h_swish", "se": True}
    return {
        "name": "note10_lat-21ms",
        "device": "note10",
        "latency_ms": 21.0,
        "resolution": 224,
        "first_conv": 24,
        "blocks": [block],
        "final_expand": {"cin": 32, "cout": 64},
        "feature_mix": {"cin": 64, "cout": 128},
    }


def _block_sums(rng: np.random.Generator) -> dict[str, Any]:
    layers, before, size = [], 16, 32
    stages = [(16, 1, 1), (24, 4, 1), (32, 4, 2), (64, 4, 2), (112, 4, 1), (184, 4, 2), (352, 1, 1)]
    for cout, blocks, first in stages:
        for position in range(blocks):
            stride = first if position == 0 else 1
            layers.append({"cin": before, "cout": cout, "stride": stride, "hw_in": size})
            before, size = cout, size // stride
    distinct = {tuple(layer.values()): i for i, layer in enumerate(layers)}
    devices = {}
    for device in FBNET_DEVICES:
        ms = [[*rng.uniform(0.1, 2, size=8).tolist(), 0.0] for _ in layers]
        same = [ms[distinct[tuple(layer.values())]] for layer in layers]
        devices[device] = {"const_ms": 3.5, "block_minus_skip_ms": same}
    return {"primitives": OPERATIONS, "layers": layers, "devices": devices}
