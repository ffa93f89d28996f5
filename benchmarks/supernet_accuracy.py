"""What supernets make of random archs of their space, and what that depends on.

python benchmarks/supernet_accuracy.py RUN RUN
"""

from collections.abc import Iterator
from pathlib import Path

import harness
import numpy as np
from harness import Table
from numpy.typing import NDArray

from mobilenas.evaluate.evaluator import SupernetEvaluator
from mobilenas.space import Arch, Space
from mobilenas.train.supernets import open_supernet_run

FITTED = 60  # random archs
FACTS = {
    "a block of expansion 6": lambda arch: sum(block.expansion == 6 for block in arch.blocks),
    "a block of two paths": lambda arch: sum(block.num_paths == 2 for block in arch.blocks),
    "a mean largest kernel wider by 1": lambda arch: np.mean(
        [max(block.kernels[0]) for block in arch.blocks if not block.is_identity]
    ),
}


def main(runs: list[Path]) -> Iterator[Table]:
    """Accuracy of the same random archs in several supernets, and slopes of linear fits."""
    rows = []
    for run in runs:
        evaluator = SupernetEvaluator(open_supernet_run(run))
        space = evaluator.run.space
        assert isinstance(space, Space)
        accuracies, slopes = influences(space, evaluator)
        config = evaluator.run.settings.config
        rows.append(
            {
                "supernet": run.name,
                "passes": config.passes,
                "seed": evaluator.run.settings.seed,
                "accuracy, mean ± sd, %": harness.mean_sd(accuracies),
                **{name: f"{slope:+.3f} ± {error:.3f}" for name, (slope, error) in slopes.items()},
            }
        )
    yield Table(rows, {}, f"{FITTED} random archs, recalibrated; points for ..., ± standard error")


def influences(
    space: Space, evaluator: SupernetEvaluator
) -> tuple[list[float], dict[str, tuple[float, float]]]:
    """The accuracies (%) of random archs, and of a linear fit the slope and its standard error for
    each of FACTS.
    """
    archs = [space.decode(g) for g in space.sample_genes(FITTED, np.random.default_rng(1))]
    accuracies = 100 * np.array(evaluator(archs))
    facts = np.array([[*(fact(arch) for fact in FACTS.values()), 1] for arch in archs], dtype=float)
    fit = np.linalg.lstsq(facts, accuracies, rcond=None)[0]
    errors = standard_errors(facts, accuracies - facts @ fit)
    return accuracies.tolist(), dict(zip(FACTS, zip(fit, errors, strict=False), strict=False))


def standard_errors(facts: NDArray[np.float64], left: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each coefficient of a least-squares fit. left: what the fit leaves, (n,)."""
    variance = (left**2).sum() / (len(left) - facts.shape[1])
    errors: NDArray[np.float64] = np.sqrt(variance * np.diag(np.linalg.pinv(facts.T @ facts)))
    return errors


def alike(space: Space) -> list[Arch]:
    """The archs that have one candidate of one path in every block."""
    every = space.blocks[0].candidates
    return [Arch((c,) * len(space.blocks)) for c in every if c.num_paths == 1]


if __name__ == "__main__":
    harness.main(main)
