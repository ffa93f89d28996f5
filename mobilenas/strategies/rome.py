"""ROME (Wang et al. 2023): topology learnt apart from the ops, gradients of several samples."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mobilenas.base.errors import BadInput
from mobilenas.base.randomness import Stream
from mobilenas.nn.views import View, Views, without_graph
from mobilenas.space import Arch, Genotype
from mobilenas.strategies.choices import Choices
from mobilenas.strategies.config import Repeats, SearchConfig
from mobilenas.strategies.gdas import GdasConfig
from mobilenas.strategies.learned import LearnedStrategy, normalised
from mobilenas.strategies.search_step import SearchStep
from mobilenas.strategies.searchable import Searchable
from mobilenas.strategies.subsets import Parts, Subset, Subsets, opened, perturbed


class RomeConfig(GdasConfig):
    """samples: archs of each of the two phases of a step. version: 1 has a parameter for each
    subset of edges or paths, 2 one for each edge or path. fair: with `ops` each op of a choice is
    trained once in a step, for which there must be as many samples.
    """

    samples: Repeats = 7
    version: Literal[1, 2] = 2
    fair: Literal["iid", "ops"] = "iid"


class Rome(LearnedStrategy):
    """Each sample is an arch: a node of DARTS's cells has two inputs, each an op; nothing else is
    run. Ops are drawn as in GDAS. Inputs are drawn by parameters of their own, and an input i times

        h_i = 1 - stop(b_i) + b_i,   b = softmax((log p + g) / tau)

    A block of several paths is drawn in parts too: its expansion, how many paths, and which. Their
    factors h scale the output of the block, not each path: behind a path comes a batch norm, which
    takes any scale out again. It is the norm of that number of paths, as in the arch alone.

    The architecture moves along the mean gradient of the samples, then the weights along the sum
    of those of new samples, clipped once.
    """

    Config = RomeConfig
    answer = "the arch of the most probable parts"
    is_dense = False
    config: RomeConfig

    def __init__(self, choices: Choices, config: RomeConfig, seed: int) -> None:
        self.parts = [Parts.of(choice) for choice in choices.ops]
        several = {place: part for place, part in enumerate(self.parts) if part.paths}
        apart = config.version == 1
        self.subsets = [Subsets(part.paths, part.numbers, apart) for part in several.values()]
        if any(node.taken < len(node.candidates) for node in choices.inputs):
            self.subsets += [Subsets(len(n.candidates), (n.taken,), apart) for n in choices.inputs]
        super().__init__(choices, config, seed)
        left = iter(self.parameters[len(self.parts) :])
        own = [(each, [next(left) for _ in each.sizes]) for each in self.subsets]
        self.paths = dict(zip(several, own, strict=False))  # of blocks, by place
        self.nodes = own[len(several) :]

    @classmethod
    def check(cls, searchable: Searchable, config: SearchConfig) -> None:
        """Raises BadInput where not all ops are used once in the samples of a fair step."""
        assert isinstance(config, RomeConfig)
        for choice in searchable.choices.ops if config.fair == "ops" else ():
            count = len(Parts.of(choice).ops)
            if count != config.samples:
                raise BadInput(
                    f"fair ops: samples {config.samples} must be the number of ops of every "
                    f"choice; {choice.name} has {count}"
                )

    def sizes(self, choices: Choices) -> list[int]:
        """Of the ops of each block or edge, then of what is drawn of paths and of inputs."""
        ops = [len(part.ops) for part in self.parts]
        return ops + [n for each in self.subsets for n in each.sizes]

    def probabilities(self) -> list[Tensor]:
        """That of its op times that of its paths; 0 of `none`."""
        return self._products(Subsets.law)

    def derive(self, searchable: Searchable, limits: Mapping[str, float]) -> Arch | Genotype | None:
        """The arch of the most probable parts, so that a part does not lose to another for having
        more candidates; within limits that of the largest product of their `scores`.
        """
        found = (self._products(Subsets.scores), self.inputs())
        products, inputs = ([normalised(p) for p in each] for each in found)
        return searchable.derive(products, limits, inputs)

    def _products(self, of_paths: Callable[[Subsets, list[Tensor]], Tensor]) -> list[Tensor]:
        """Of each candidate the probability of its op times what its paths have, 1 without any."""
        found = []
        for place, part in enumerate(self.parts):
            p = torch.cat([self.parameters[place].softmax(0), torch.zeros(1)])
            found.append(p[[-1 if op is None else op for op, _ in part.pairs]])
            if place in self.paths:
                subsets, own = self.paths[place]
                values = torch.cat([of_paths(subsets, own), torch.ones(1)])
                places = {subset: index for index, subset in enumerate(subsets.all)}
                found[-1] = found[-1] * values[[places.get(s, -1) for _, s in part.pairs]]
        return found

    def inputs(self) -> list[Tensor]:
        """1 for each of the most probable edges into a node."""
        return [subsets.members[subsets.law(own).argmax()] for subsets, own in self.nodes]

    def occurrences(self) -> list[Tensor]:
        """Edges count as often as their nodes have them."""
        found = self.probabilities()
        if not self.nodes:
            return found
        shares = torch.cat([subsets.inclusion(subsets.law(own)) for subsets, own in self.nodes])
        return [p * share for p, share in zip(found, shares, strict=True)]

    def samples(self, step: SearchStep, stream: Stream) -> Iterator[Views]:
        """The archs of a phase."""
        rng, count = step.rng(stream), self.config.samples
        if self.config.fair == "ops" and stream == Stream.WEIGHT_STEP:
            orders: Sequence[Sequence[int | None]] = [
                rng.permutation(len(part.ops)).tolist() for part in self.parts
            ]
        else:
            orders = [[None] * count for _ in self.parts]
        for ops in zip(*orders, strict=True):
            yield self._sample(rng, self.config.tau(step.progress), ops)

    def views(self, step: SearchStep, stream: Stream) -> Views:
        """The first of the samples."""
        return next(self.samples(step, stream))

    def learn(self, step: SearchStep) -> None:
        """An architecture step along the mean of the samples' gradients."""
        found = []
        for views in self.samples(step, Stream.ARCH_STEP):
            loss = step.cost.loss(step.loss(views, "held"), self.occurrences())
            found.append(step.gradient(loss, self.parameters))
        self.apply([torch.stack(each).mean(0) for each in zip(*found, strict=True)])

    def fit(self, step: SearchStep) -> None:
        """A weight step along their sum."""
        step.train([without_graph(views) for views in self.samples(step, Stream.WEIGHT_STEP)])

    def _sample(
        self, rng: np.random.Generator, tau: float, given: Sequence[int | None]
    ) -> list[View]:
        """One arch. given: the op of each choice, None for those to be drawn."""
        views: list[View] = []
        for place, (part, op) in enumerate(zip(self.parts, given, strict=True)):
            factor = torch.ones(())
            paths: Subset = ()
            if op is None:
                noisy, q = perturbed(self.parameters[place], rng, tau)
                op = int(noisy.argmax())
                factor = opened(q[op])
            if (op, paths) not in part.index:
                subsets, own = self.paths[place]
                paths, of_paths, _ = subsets.draw(own, rng, tau)
                factor = factor * of_paths
            views.append({part.index[op, paths]: factor})
        drawn = (subsets.draw(own, rng, tau) for subsets, own in self.nodes)
        return [*views, *({i: opened(q[i]) for i in edges} for edges, _, q in drawn)]
