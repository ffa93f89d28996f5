"""The commands `space` and `arch` with cells whose edges have ops, and those that refuse them."""

import json
from pathlib import Path

import pytest
from genotypes import DARTS_V2, IMAGENET
from helpers import Call, check_refused

from mobilenas.space import load_listed_space

ALL_3X3 = (
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+"
    "|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|"
)


def test_space_list_names_them(call: Call) -> None:
    listed = json.loads(call("space", "list", "--json").out)
    for name in ("nb201", "darts"):
        assert listed[name] == load_listed_space(name).spec.description


def test_space_show(call: Call) -> None:
    facts = json.loads(call("space", "show", "nb201", "--json").out)
    assert (facts["num_archs"], len(facts["cells"]), facts["edges"]) == (15625, 15, 6)
    # Of the benchmark: no op with weights, and six 3x3 convolutions.
    assert (facts["params"]["minimum"], facts["params"]["maximum"]) == (73306, 1531546)
    text = call("space", "show", "nb201").out
    assert "15625 archs, 32 px, 10 classes" in text
    assert "15 cells, of one type; channels 16, 32, 64" in text
    text = call("space", "show", "darts").out
    assert "20 cells, 2 of them reduction cells; channels 36, 72, 144" in text
    assert "14 edges a type, of which an arch has 2 into each node" in text


def test_arch_sample_and_cost(call: Call) -> None:
    for name in ("nb201", "darts:cells=8,channels=16"):
        space = load_listed_space(name)
        for text in json.loads(call("arch", "sample", name, "-n", "3", "--json").out)["archs"]:
            assert str(space.parse(text)) == text
    costs = json.loads(call("arch", "cost", "nb201", ALL_3X3, "--json").out)
    assert costs == {"flops": 220_119_680, "params": 1_531_546, "latency_ms": {}}
    assert "params 3.349M" in call("arch", "cost", "darts", DARTS_V2).out
    assert "params 4.719M" in call("arch", "cost", IMAGENET, DARTS_V2).out


@pytest.mark.parametrize("space", ["nb201", "darts:cells=8"])
@pytest.mark.parametrize(
    "command",
    [
        "supernet-train",
        "supernet-train --strategy fair",
        "truth -n 2",
        "latency build --device here",
    ],
)
def test_commands_that_do_not_take_them(
    command: str, space: str, call: Call, tmp_path: Path
) -> None:
    outcome = call(*command.split(), "--space", space, "--out", tmp_path / "run")
    check_refused(outcome, f"{space} is a space of cells whose edges have ops")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("space", "show", "nb201", "--flops", "5M"), "budgets are for spaces of blocks"),
        (("arch", "cost", "nb201", "e3k3"), "must be the edges into a node"),
        (("arch", "cost", "darts", ALL_3X3), "genotype has 1 types of cells, space darts 2"),
    ],
)
def test_bad_input(arguments: tuple[str, ...], words: str, call: Call) -> None:
    check_refused(call(*arguments), words)
