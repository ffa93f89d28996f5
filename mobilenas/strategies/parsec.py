"""PARSEC (Casale et al. 2019): sampled archs, weighted by how well each explains a batch."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from mobilenas.base.randomness import Stream
from mobilenas.nn.views import Views
from mobilenas.strategies.config import SearchConfig
from mobilenas.strategies.learned import LearnedStrategy, draw
from mobilenas.strategies.search_step import SearchStep
from mobilenas.train.config import AboveZero, NotNegative, Share

_NEGLIGIBLE = 8e-3  # share of the mean weight: a sample that has less is left out of a weight step


class ParsecConfig(SearchConfig):
    """samples: archs of a step. effective: the least effective number of them, as a share.
    cost_form: no loss has the expected costs, archs are weighed by their own.
    """

    samples: Annotated[int, Field(ge=2, le=10_000)] = 8
    effective: Annotated[float, Field(gt=0, le=1)] = 0.5
    arch_lr: AboveZero = 1e-2
    arch_betas: tuple[Share, Share] = (0.0, 0.999)
    arch_weight_decay: NotNegative = 0.0
    cost_form: Literal["add"] = "add"


class Parsec(LearnedStrategy):
    """K archs are drawn from the probabilities p and weighted by

        w = softmax(T * l - cost_weight * excess)

    with l the mean log-likelihood of the batch and `excess` how far each arch passes the limits
    (the latter as in FP-NAS, Yan et al. 2021). The gradient of the parameters is that of
    -sum w_k log p(arch_k), that of the weights the sum of w_k times each arch's. T is the batch
    size, as the likelihood of independent images asks for, or the largest below it that leaves an
    effective number of samples 1 / sum w^2 of `effective` of K: untempered one arch takes all.
    """

    Config = ParsecConfig
    is_dense = False
    config: ParsecConfig

    def views(self, step: SearchStep, stream: Stream) -> Views:
        """One sampled arch."""
        return draw(self.probabilities(), step.rng(stream))

    def learn(self, step: SearchStep) -> None:
        """An architecture step, without any backward."""
        archs, weights = self._weighted(step, Stream.ARCH_STEP, "held")
        gradients = []
        for block, p in enumerate(self.probabilities()):
            chosen = torch.tensor([arch[block] for arch in archs])
            drawn = torch.zeros_like(p).index_add(0, chosen, weights.to(p))
            gradients.append((p - drawn).detach())
        self.apply(gradients)

    def fit(self, step: SearchStep) -> None:
        """A weight step on the samples that count."""
        archs, weights = self._weighted(step, Stream.WEIGHT_STEP, "train")
        least = _NEGLIGIBLE / len(archs)
        counting = [k for k, w in enumerate(weights.tolist()) if w > least]
        step.train([archs[k] for k in counting], [float(weights[k]) for k in counting])

    def _weighted(
        self, step: SearchStep, stream: Stream, part: str
    ) -> tuple[list[list[int]], Tensor]:
        rng = step.rng(stream)
        archs = [draw(self.probabilities(), rng) for _ in range(self.config.samples)]
        with torch.no_grad():
            likelihood = -torch.stack([step.loss(arch, part) for arch in archs]).double()
        mean = likelihood.clone()
        step.trainer.processes.average([mean])
        step.check_finite([mean])
        excess = torch.stack([step.cost.excess(self._one_hot(arch)) for arch in archs])
        penalty = self.config.cost_weight * excess.to(mean)
        least = self.config.effective * self.config.samples
        return archs, tempered(mean, penalty, self.config.batch_size, least)

    def _one_hot(self, arch: list[int]) -> list[Tensor]:
        sizes = map(len, self.parameters)
        return [torch.eye(size)[gene] for size, gene in zip(sizes, arch, strict=True)]


def tempered(likelihood: Tensor, penalty: Tensor, largest: float, effective: float) -> Tensor:
    """softmax(T * likelihood - penalty), (samples,), with the largest T of at most `largest` that
    leaves as many effective samples 1 / sum w^2; T near 0 where the penalty alone leaves fewer.
    """

    def weights(temperature: float) -> Tensor:
        return (temperature * likelihood - penalty).softmax(0)

    def enough(temperature: float) -> bool:
        return float(1 / weights(temperature).square().sum()) >= effective

    if enough(largest):
        return weights(largest)
    low, high = 0.0, largest
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if enough(middle) else (low, middle)
    return weights(low)
