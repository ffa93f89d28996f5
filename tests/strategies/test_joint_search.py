"""Each strategy in two processes on a joint batch, against one process with all of it."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from test_learned import ALL, in_space
from torch import Tensor
from toys import STEPS, ImageBatches
from two_processes import in_two_processes

from mobilenas.strategies.methods import METHODS
from mobilenas.strategies.search_task import SearchTask
from mobilenas.train.distributed import SINGLE, Processes, joined

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    str(case.id): (str(case.values[0]), dict(case.values[1])) for case in ALL
}
LAST = 2  # steps
# By the usual 0.0001 a difference is divided, which rounding in float32 changes by a thousandth.
SETTINGS: dict[str, dict[str, Any]] = {
    "lambda-darts": {"harmony_radius": 0.1},
    "svge": {"labels": 4},
    "zarts": {"samples": 2, "inner_steps": 1},
}
Found = dict[str, Any]


class Rows(ImageBatches):
    """Of each batch the rows of a process, in float64."""

    def __init__(self, seed: int, processes: Processes) -> None:
        super().__init__(seed)
        self.rows = torch.from_numpy(processes.share(self.size))

    def __call__(self, n: int) -> tuple[Tensor, Tensor]:
        images, labels = super().__call__(n)
        return images[self.rows].double(), labels[self.rows]


def searched(case: str, processes: Processes) -> Found:
    """What the last steps of a search leave."""
    name, settings = CASES[case]
    every = "arch_every" in METHODS[name].strategy.Config.model_fields
    settings = settings | SETTINGS.get(case, {}) | ({"arch_every": 1} if every else {})
    batches = partial(Rows, processes=processes)
    strategy, steps = in_space(name, settings, batches=batches, processes=processes)
    module = steps.trainer.module.double()  # some methods divide by small differences
    processes.join_batch_norms(module)
    spent = 0.0
    for n in range(STEPS - LAST, STEPS):
        step = steps(n, n / (STEPS - 1))
        strategy.step(step)
        spent += step.spent
    return {
        "spent": spent,
        "architecture": [alpha.detach() for alpha in strategy.parameters],
        "weights": module.state_dict(),
    }


def work() -> dict[str, Found]:
    with joined() as processes:
        return {case: searched(case, processes) for case in CASES}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Found]]:
    """What all searches left in each of two processes."""
    return in_two_processes(work, tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize("case", CASES)
def test_both_processes_have_the_same_and_what_one_would_have(
    case: str, found: list[dict[str, Found]]
) -> None:
    main, other = (each[case] for each in found)
    single = searched(case, SINGLE)
    assert main["spent"] == other["spent"] == pytest.approx(single["spent"])
    for a, b, alone in zip(*(x["architecture"] for x in (main, other, single)), strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, alone, rtol=0, atol=2e-3)
    assert main["weights"].keys() == single["weights"].keys()
    for key, value in main["weights"].items():
        assert torch.equal(value, other["weights"][key])
        torch.testing.assert_close(value, single["weights"][key], rtol=1e-3, atol=1e-3)


def held_loss() -> Tensor:
    """What a checkpoint after one step says of the held-out images."""
    with joined() as processes:
        batches = partial(Rows, processes=processes)
        strategy, steps = in_space("darts", {"epochs": 1}, batches=batches, processes=processes)
        steps.trainer.module.double()
        parts = (strategy, steps(0).objective, steps.held, steps.searchable, {}, 32 * STEPS)
        task = SearchTask(*parts)
        task.step(steps.trainer, 0)
        found: Tensor = task.state()["held_loss"]
        return found


def test_a_checkpoint_has_the_loss_of_the_joint_batch(tmp_path: Path) -> None:
    """One process writes it, and all go on from it."""
    main, other = in_two_processes(held_loss, tmp_path)
    assert torch.equal(main, other)
