"""A strategy of your own: a search by gradient in which the candidates of a block do not compete.

python examples/own_strategy.py [FOLDER]      # half a minute; the images are the built-in digits
"""

import sys
from pathlib import Path

from torch import Tensor

from mobilenas.base.randomness import Stream
from mobilenas.cost.budget import Budget
from mobilenas.nn.views import Views
from mobilenas.space import load_space
from mobilenas.stages.gradient_run import create_search_run
from mobilenas.stages.search import run_search
from mobilenas.strategies.config import SearchConfig
from mobilenas.strategies.learned import LearnedStrategy
from mobilenas.strategies.search_step import SearchStep


class IndependentConfig(SearchConfig):
    """temperature: of the sigmoids; a low one makes them choose early."""

    temperature: float = 0.5


class Independent(LearnedStrategy):
    """Each candidate has a weight of its own between 0 and 1, as in FairDARTS (Chu et al. 2020)."""

    Config = IndependentConfig
    config: IndependentConfig

    def weights(self) -> list[Tensor]:
        """The parameters as weights between 0 and 1."""
        return [(alpha / self.config.temperature).sigmoid() for alpha in self.parameters]

    def views(self, step: SearchStep, stream: Stream) -> Views:
        """What a forward runs: of each block all candidates, times their weights."""
        return [dict(enumerate(weight.unbind())) for weight in self.weights()]

    def probabilities(self) -> list[Tensor]:
        """What expected costs and the arch at the end go by."""
        return [weight / weight.sum() for weight in self.weights()]


def main(out: Path) -> None:
    space = load_space("digits:candidates.max_paths=1,resolution=16")
    config = IndependentConfig(epochs=2, limit=600, batch_size=32, arch_lr=0.03, flip=False)
    run = create_search_run(
        out, Independent, space, "digits", seed=0, config=config, budget=Budget({"flops": 1.2e6})
    )
    (found,) = run_search(run)["front"]
    print(f"{found['flops']:,} FLOPs  {found['arch']}")
    print(f"next: mobilenas train --search {out} --preset digits")


if __name__ == "__main__":
    main(Path(*sys.argv[1:2] or ["runs/own_strategy"]))
