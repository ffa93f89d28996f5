"""The commands `space` and `arch` with a space of cells, and those that refuse one."""

import json
from pathlib import Path
from statistics import median

import pytest
from helpers import Call, check_refused

from mobilenas.cost.cells import cell_count
from mobilenas.space import CellSpace, load_any_space

SPACE = load_any_space("nb101")
assert isinstance(SPACE, CellSpace)


def test_space_list_names_spaces_of_cells(call: Call) -> None:
    assert json.loads(call("space", "list", "--json").out)["nb101"] == SPACE.spec.description


def test_space_show(call: Call) -> None:
    facts = json.loads(call("space", "show", "nb101", "--json").out)
    assert (facts["num_archs"], facts["distinct"], facts["choices"]) == (255, 34, [255])
    counts = [cell_count(SPACE, cell) for cell in SPACE.distinct()]
    for cost in ("flops", "params"):
        values = [getattr(count, cost) for count in counts]
        assert facts[cost] == {
            "minimum": min(values),
            "median": int(median(values)),
            "maximum": max(values),
        }
    text = call("space", "show", "nb101").out
    assert "255 archs, 34 of them distinct" in text
    assert "channels 128, 256, 512" in text


def test_arch_sample_and_cost(call: Call) -> None:
    drawn = json.loads(call("arch", "sample", "nb101", "-n", "5", "--json").out)["archs"]
    for text in drawn:
        count = cell_count(SPACE, SPACE.parse(text))
        costs = json.loads(call("arch", "cost", "nb101", text, "--json").out)
        assert costs == {"flops": count.flops, "params": count.params, "latency_ms": {}}
    assert "params 2.958M" in call("arch", "cost", "nb101", "c1").out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("space show nb101 --flops 5M", "budgets are for spaces of blocks"),
        ("arch cost nb101 c5", "'c5' is none of c1, c3, mp and none"),
        ("latency build --space nb101 --device here", "nb101 is a space of cells"),
        ("supernet-train --space nb101 --strategy fair", "--strategy uniform"),
    ],
)
def test_what_cells_do_not_take(
    arguments: str, words: str, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    check_refused(call(*arguments.split()), words)
