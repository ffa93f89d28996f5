"""What the command `search` refuses, in one line."""

from pathlib import Path

import pytest
from helpers import Call, check_refused
from searched import CELLS, SMALL, SPACE

from mobilenas.cost import CostModel
from mobilenas.search.front import read_search
from mobilenas.space import load_space


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--strategy=gdaz"], ["'gdaz'", "did you mean gdas?"]),
        (["--space=macros"], ["'macros'"]),
        (["--space=nb101"], ["nb101", "cells"]),
        (["--data=nothing/here"], ["nothing/here"]),
        (["--preset=quik"], ["'quik'", "cpu"]),
        (["--set=tau_stat=3"], ["tau_stat", "did you mean tau_start?"]),
        (["--set=cost_weight=-1"], ["cost_weight"]),
        (["--set=epochs=0"], ["epochs"]),
        (["--set=validate_images=8"], ["validate_images 8", "at least the batch_size"]),
        (["--set=precision=fp16"], ["fp16", "bf16"]),
        (["--set=teacher=timm:resnet18"], ["teacher"]),
        (["--set=ema_decay=0.99"], ["ema_decay", "left out"]),
        (["--set=weights_first=0.96"], ["weights_first 0.96", "10 steps"]),
        (["--strategy=proxyless", "--set=arch_every=11"], ["arch_every 11", "10 steps"]),
        (["--strategy=idarts", "--set=arch_every=20"], ["arch_every 20", "10 steps"]),
        (["--set=optimizer=nothing"], ["optimizer nothing"]),
        (["--latency=2ms@nowhere"], ["nowhere"]),
        (["--space=darts:channels=4,cells=3", "--latency=2ms@phone"], ["nb201", "darts"]),
        (["--space=nb201:channels=4,cells=1", "--memory=1M"], ["memory", "flops, params"]),
        (["--space=darts:channels=4,cells=3", "--flops=1M"], ["darts", "no budget"]),
        (["--strategy=pc-darts"], ["macro", "pc-darts", "cells"]),
        (["--strategy=pc-darts", f"--space={CELLS}", "--set=parts=4"], ["parts 4", "4 channels"]),
        (["--strategy=mergenas"], ["macro", "no choice has kernels that could be merged"]),
        (["--strategy=mergenas", "--space=s1"], ["s1", "path_activation=after_sum"]),
        (["--strategy=dropnas", "--set=drop=0.9999999"], ["drop", "0.99"]),
        (["--strategy=pdarts", "--set=skip_limit=9"], ["skip_limit 9", "8 blocks"]),
        (["--strategy=pdarts", "--set=keep=[0.99,0.98]"], ["keep [0.99, 0.98]", "[3, 3, 3]"]),
        (["--strategy=rome", "--set=samples=0"], ["samples"]),
        (["--strategy=rome", "--set=fair=ops"], ["samples 7", "number of ops", "block 1 has"]),
        (["--space=nb210"], ["'nb210'", "s1", "darts", "did you mean nb201?"]),
        (["--strategy=idarts", "--set=precision=bf16"], ["idarts", "bf16", "fp32"]),
        (["--strategy=darts", "--set=order=2", "--set=precision=bf16"], ["darts", "bf16", "fp32"]),
        (["--strategy=svge", "--space=darts:channels=4,cells=3"], ["svge", "choose their edges"]),
        (["--benchmark=macro", "--space=digits"], ["digits", "blocks that are not those of macro"]),
        (["--benchmark=nb101"], ["'nb101'", "macro, nb201"]),
        (["--benchmark=nb201"], ["nb201", "macro"]),
        (["--benchmark=macro", "--space=nb201"], ["macro", "cells"]),
        (["--benchmark=macro", "--data-root=nothing/here"], ["nothing/here", "MOBILENAS_DATA"]),
    ],
)
def test_bad_input_is_one_line(
    flags: list[str], words: list[str], tmp_path: Path, call: Call
) -> None:
    out = tmp_path / "search"
    check_refused(call("search", *SMALL, *flags, f"--out={out}"), *words)
    assert not (out / "run.json").exists()


def test_a_budget_that_no_arch_meets(tmp_path: Path, call: Call) -> None:
    out = tmp_path / "search"
    done = call("search", *SMALL, "--flops=10k", f"--out={out}")
    assert done.code == 3
    assert "the space ranges from" in done.err.splitlines()[-1]
    costs = CostModel(load_space(SPACE))
    limits = {cost: costs.range(cost).minimum for cost in ("flops", "params", "memory")}
    apart = [f"--{cost}={limit}" for cost, limit in limits.items()]
    found = call("search", *SMALL, *apart, f"--out={out}")
    assert found.code == 0, found.err  # one arch is the least of all
    assert read_search(out).pick("best") == "_".join(8 * ["id"])
