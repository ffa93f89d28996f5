"""`search --list`: what it says of the strategies is what these do."""

import json
from contextlib import suppress

from helpers import Call

from mobilenas.base.errors import BadInput
from mobilenas.cost.edge_model import costs_of
from mobilenas.space import load_network_space
from mobilenas.strategies.methods import METHODS
from mobilenas.strategies.searchable import Searchable


def test_what_there_is(call: Call) -> None:
    printed = call("search", "--list")
    assert printed.code == 0
    assert all(name in printed.out and x.paper in printed.out for name, x in METHODS.items())
    listed = json.loads(call("search", "--list", "--json").out)["strategies"]
    assert [row["strategy"] for row in listed] == list(METHODS)
    references = {
        "blocks": "s1:width=0.25",
        "linear blocks": "s1:width=0.25,path_activation=after_sum",
        "nb201": "nb201",
        "darts": "darts",
    }
    for row in listed:
        kind = METHODS[row["strategy"]].strategy
        taken = []
        for name, reference in references.items():
            with suppress(BadInput):
                kind.check(Searchable(costs_of(load_network_space(reference))), kind.Config())
                taken.append(name)
        said = row["spaces"].split(", ")
        assert taken == (["blocks", "linear blocks", *said[1:]] if said[0] == "blocks" else said)
        assert ("float32" in row["needs"]) == kind.takes_differences(kind.Config())
        assert ("--from" in row["needs"]) == kind.must_start_from
