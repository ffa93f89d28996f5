"""`search`, `train`, `export` and `eval` of cells whose edges have ops."""

import json
from pathlib import Path

import pytest
from genotypes import DARTS_V2
from helpers import ALONE, Call, check_refused

from mobilenas.base.files import read_json
from mobilenas.nn import EdgeCellNetwork
from mobilenas.nn.saved import load_network
from mobilenas.space import load_network_space

NB201 = "nb201:channels=4,cells=1,resolution=8"
DARTS = "darts:channels=4,cells=3,resolution=8"
CELL = "|skip_connect~0|+|none~0|none~1|+|none~0|nor_conv_1x1~1|none~2|"
SHORT = [*ALONE, "--set=epochs=0.2", "--set=validate_every=0.2"]


def test_from_a_search_to_a_proved_file(call: Call, tmp_path: Path) -> None:
    searched, trained, file = (tmp_path / name for name in ("search", "train", "cell.onnx"))
    settings = ("--preset=cpu-tiny", "--set=epochs=0.1", "--set=limit=160", "--set=device=cpu")
    done = call("search", "--space", NB201, *settings, "--out", searched)
    assert done.out.endswith(f"search in {searched}; next: mobilenas train --search {searched}\n")
    arch = read_json(searched / "front.json")["front"][0]["arch"]
    result = json.loads(call("train", "--search", searched, *SHORT, "--out", trained, "--json").out)
    space = load_network_space(NB201)
    assert (result["arch"], result["space"], result["latency_ms"]) == (arch, NB201, {})
    network, _ = load_network(trained / "network")
    assert isinstance(network, EdgeCellNetwork) and str(network.arch) == arch
    assert result["params"] == sum(p.numel() for p in network.parameters())
    assert str(space.parse(arch)) == arch

    call("export", "--onnx", "--network", trained / "network", "--data=digits", "--out", file)
    found = [
        json.loads(call("eval", path, "--data=digits", "--json").out)
        for path in (trained / "network", file)
    ]
    assert [each["runtime"] for each in found] == ["torch", "onnxruntime"]
    assert found[0]["top1"] == found[1]["top1"] == pytest.approx(result["test_accuracy"])

    # What starts from it, and what does not.
    again = [*SHORT, "--weights", trained / "network", "--out", tmp_path / "again"]
    assert call("train", *again).code == 0
    refused = call("train", *again, "--resume", "--space", "nb201:channels=8,cells=1,resolution=8")
    check_refused(refused, "space")
    detector = ("retinanet_quick", "--weights", trained / "network", "--out", tmp_path / "detect")
    check_refused(call("detect", "train", *detector), "is a network of cells")
    int8 = ("--onnx", "--int8", "--run", trained)
    check_refused(call("export", *int8), "int8: a network of cells is exported in float")


def test_a_published_genotype(call: Call, tmp_path: Path) -> None:
    given = DARTS_V2.replace("[2, 3, 4, 5]", "range(2, 6)")
    out = tmp_path / "train"
    done = call("train", "--space", DARTS, "--arch", given, *SHORT, "--out", out, "--json")
    result = json.loads(done.out)
    assert result["arch"] == str(load_network_space(DARTS).parse(DARTS_V2))
    assert {"flops", "params"} < result.keys()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--arch", "e3k3"), "must be the edges into a node"),
        (("--arch", "|nor_conv_9x9~0|+|none~0|none~1|+|none~0|none~1|none~2|"), "nor_conv_9x9"),
        (("--arch", DARTS_V2), "genotype has 2 types of cells"),
        (
            ("--arch", CELL, *SHORT, "--set=drop_path_rate=0.1"),
            "drop_path_rate 0.1: networks of cells have none",
        ),
    ],
)
def test_bad_input(arguments: tuple[str, ...], words: str, call: Call, tmp_path: Path) -> None:
    out = tmp_path / "train"
    check_refused(call("train", "--space", NB201, *arguments, "--out", out), words)
    assert not out.exists()
