"""DARTS-PT (Wang et al. 2021): of a trained supernet what it would miss the most is kept."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mobilenas.base.randomness import Stream, generator
from mobilenas.nn.views import View, Views
from mobilenas.space import Arch, Choice, EdgeCellSpace, Genotype
from mobilenas.strategies.choices import Choices
from mobilenas.strategies.config import SearchConfig
from mobilenas.strategies.gaea import Gaea
from mobilenas.strategies.learned import LearnedStrategy, normalised
from mobilenas.strategies.score_log import Scores
from mobilenas.strategies.search_step import SearchStep
from mobilenas.strategies.searchable import Searchable
from mobilenas.strategies.subsets import Parts
from mobilenas.train.config import Positive

_TRACE = 1e-6  # of what the other strategy learnt, beside what is decided
log = logging.getLogger(__name__)


class DartsPtConfig(SearchConfig):
    """epochs: of tuning, before, between and after the projections, which are at equal distances.
    blank: all candidates have one weight, and nothing learns it. score: what tells how much is
    missed. removal: of the edges into a node one after the other, or, as released, by what each of
    them alone is missed. score_images: of those that are held out, all where it is not set.
    """

    blank: bool = False
    score: Literal["loss", "accuracy"] = "loss"
    removal: Literal["greedy", "ablation"] = "greedy"
    score_images: Positive | None = None


class DartsPt(LearnedStrategy):
    """Starts from the supernet and the parameters of another strategy (`inherit`). A projection
    measures, on held-out images, the mixture without each candidate of a choice, the others as they
    are, and decides for the one that is missed the most. Choices come in an order that is drawn,
    then, where a node keeps some edges, nodes, whose edges that are missed the least go. In between
    weights and parameters learn on, with a lower rate.

    Blocks of several paths decide for an expansion first, by the mixture without all candidates of
    each. Then paths go one after another, the one that is missed the least, with all candidates
    that have it, until there are as many as a candidate may have; of the rest one is kept.

    Cells of all types are projected at once. Where there are limits, candidates that none of the
    archs that are left within them has are not offered; nor are those that the other strategy
    pruned, unless nothing else is within the limits.
    """

    Config = DartsPtConfig
    config: DartsPtConfig
    starts_from = "search"
    answer = "the arch that the projections left"
    must_start_from = True
    score_file = "projections.jsonl"

    def __init__(self, choices: Choices, config: SearchConfig, seed: int) -> None:
        super().__init__(choices, config, seed)
        self.inherit(LearnedStrategy(choices, config, seed))
        self.decided = [0 if size == 1 else None for size in choices.sizes]
        self.edges = [list(range(len(node.candidates))) for node in choices.inputs]
        rng = generator(seed, Stream.PROJECTION)
        free = [place for place, decided in enumerate(self.decided) if decided is None]
        several = [p for p, node in enumerate(choices.inputs) if len(self.edges[p]) > node.taken]
        self.events = [
            *((self._decide, group) for group in _drawn(choices.ops, free, rng)),
            *((self._remove_edges, group) for group in _drawn(choices.inputs, several, rng)),
        ]
        self.done = 0

    def inherit(self, base: LearnedStrategy) -> None:
        """Go on from the parameters of a strategy."""
        self.base = base
        self.parameters, self.optimizer = base.parameters, base.optimizer

    def probabilities(self) -> list[Tensor]:
        """Of what is decided 1 and 0."""
        found = []
        for p, decided in zip(self.base.probabilities(), self.decided, strict=True):
            if decided is not None:
                p = torch.eye(len(p))[decided]
            elif self.config.blank:
                left = (p > 0).float()
                p = left / left.sum()
            found.append(p)
        return found

    def inputs(self) -> list[Tensor]:
        """What the edges into each node are worth: of those that went 0, and else the same, where
        the other strategy does not say. With `blank` they sum to 1, as they did in its training.
        """
        nodes = self.base.inputs()
        if self.config.blank:
            nodes = [torch.full_like(node, 1 / len(node)) for node in nodes]
        nodes = nodes or [torch.ones(len(node.candidates)) for node in self.choices.inputs]
        gone = (
            torch.zeros(len(node)).index_fill(0, torch.tensor(kept), 1)
            for node, kept in zip(nodes, self.edges, strict=True)
        )
        return [node * mask for node, mask in zip(nodes, gone, strict=True)]

    def views(self, step: SearchStep, stream: Stream) -> Views:
        """Those of the other strategy; of what is decided this alone."""
        count = len(self.choices.ops)
        views = self.mixture() if self.config.blank else [*self.base.views(step, stream)]
        ops = [
            view if decided is None else decided
            for view, decided in zip(views, self.decided, strict=False)
        ]
        nodes = views[count:] or self.mixture()[count:]
        return [
            *ops,
            *(
                {start: node[start] for start in kept}  # type: ignore[index]
                for node, kept in zip(nodes, self.edges, strict=True)
            ),
        ]

    def mixture(
        self, left: tuple[int, Sequence[int]] | None = None, edge: tuple[int, int] | None = None
    ) -> list[View]:
        """All candidates by their probability, of a choice those that are left, or all without an
        edge into a node. What stays keeps its weight.
        """
        views: list[View] = []
        for place, (p, decided) in enumerate(zip(self.probabilities(), self.decided, strict=True)):
            indices = left[1] if left and place == left[0] else range(len(p))
            views.append({i: p[i].detach() for i in indices} if decided is None else decided)
        for place, (node, kept) in enumerate(zip(self.inputs(), self.edges, strict=True)):
            views.append({i: node[i].detach() for i in kept if (place, i) != edge})
        return views

    def learn(self, step: SearchStep) -> None:
        """An architecture step of what is not decided yet: choices, and edges that have weights."""
        pairs = zip(self.edges, self.choices.inputs, strict=True)
        edges = bool(self.base.inputs()) and any(len(kept) > node.taken for kept, node in pairs)
        if not self.config.blank and (None in self.decided or edges):
            super().learn(step)

    def penalty(self) -> Tensor | float:
        """That of the other strategy."""
        return self.base.penalty()

    def derive(self, searchable: Searchable, limits: Mapping[str, float]) -> Arch | Genotype | None:
        """What is decided. Where limits that the projections did not know forbid some of that, what
        the other strategy learnt says what takes its place.
        """
        pairs = zip(self.probabilities(), self.base.probabilities(), strict=True)
        mixed = [normalised(p + _TRACE * own) for p, own in pairs]
        return searchable.derive(mixed, limits, [normalised(p) for p in self.inputs()])

    def apply(self, gradients: Sequence[Tensor]) -> None:
        """As the other strategy has it. What is decided has no gradient, and would only decay: it
        stays, for another budget may ask what was learnt of it.
        """
        before = [alpha.detach().clone() for alpha in self.parameters]
        self.base.apply(gradients)
        with torch.no_grad():
            for alpha, old, gradient in zip(self.parameters, before, gradients, strict=True):
                if not gradient.any():
                    alpha.copy_(old)

    def reach(self, steps: int) -> str | None:
        """Of parameters that have a rate of their own, by that."""
        return self.base.reach(steps) if isinstance(self.base, Gaea) else super().reach(steps)

    def step(self, step: SearchStep) -> None:
        """The projections that are due, then one of the architecture and one of the weights."""
        parts = len(self.events) + 1
        while self.done < len(self.events):
            if step.learnt < (self.done + 1) * step.learning_steps // parts:
                break
            decide, places = self.events[self.done]
            for place in places:
                decide(step, place)
            self.done += 1
        super().step(step)

    def _decide(self, step: SearchStep, place: int) -> None:
        """Of a choice the candidate that is missed the most; of several paths of what is left when
        an expansion is decided, and paths are gone.
        """
        candidates = self.choices.ops[place].candidates
        left = [*range(len(candidates))]
        offered = {i for i in left if self._is_offered(step, place, i)}
        p = self.base.probabilities()[place]
        offered = {i for i in offered if p[i] > 0} or offered  # others have not been trained on
        parts = Parts.of(self.choices.ops[place])
        if parts.paths:
            of_op = {name: parts.of_op(op) for op, name in enumerate(parts.ops)}
            groups = {name: group for name, group in of_op.items() if offered & {*group}}
            left = groups[self._by_need(step, place, left, groups)[-1]]
            left = self._without_paths(step, place, left, offered & {*left})
        names = {candidates[i]: [i] for i in left if i in offered}
        (self.decided[place],) = names[self._by_need(step, place, left, names)[-1]]

    def _without_paths(
        self, step: SearchStep, place: int, left: list[int], offered: set[int]
    ) -> list[int]:
        """What is left of some candidates when those paths are gone that are missed the least. All
        stay that are in all offered candidates.
        """
        parts = Parts.of(self.choices.ops[place])
        while len(paths := parts.paths_of(left)) > parts.numbers[-1]:
            having = {f"path {p + 1}": parts.with_path(left, p) for p in paths}
            groups = {name: group for name, group in having.items() if offered - {*group}}
            if not groups:
                break
            gone = groups[self._by_need(step, place, left, groups)[0]]
            left = [i for i in left if i not in gone]
            offered = offered - {*gone}
        return left

    def _by_need(
        self, step: SearchStep, place: int, left: Sequence[int], groups: Mapping[str, Sequence[int]]
    ) -> list[str]:
        """Groups of candidates, by name, from what is missed the least on where it is taken out of
        those that are left of a choice.
        """
        names = [*groups]
        if len(names) > 1:
            rest = ([i for i in left if i not in group] for group in groups.values())
            several = [self.mixture(left=(place, each)) for each in rest]
            scores = self._measured(step, self.choices.ops[place].name, names, several)
            names = [names[i] for i in self._order(scores)]
        return names

    def _remove_edges(self, step: SearchStep, place: int) -> None:
        """Of a node those edges that are missed the least, until it has as many as an arch."""
        node, kept = self.choices.inputs[place], self.edges[place]
        while len(kept) > node.taken:
            names = [node.candidates[start] for start in kept]
            scores = self._measured(
                step, node.name, names, [self.mixture(edge=(place, start)) for start in kept]
            )
            count = 1 if self.config.removal == "greedy" else len(kept) - node.taken
            gone = {kept[i] for i in self._order(scores)[:count]}
            kept[:] = [start for start in kept if start not in gone]

    def _order(self, scores: Scores) -> list[int]:
        """From what is missed the least on; of candidates alike the first is missed the most."""

        def missed(index: int) -> tuple[float, ...]:
            loss, accuracy = scores.loss[index], scores.accuracy[index]
            return (loss, -index) if self.config.score == "loss" else (-accuracy, loss, -index)

        return sorted(range(len(scores.loss)), key=missed)

    def _is_offered(self, step: SearchStep, place: int, index: int) -> bool:
        """Whether an arch within the limits has the candidate, and all that is decided."""
        space, limits = step.searchable.space, step.cost.asked
        if isinstance(space, EdgeCellSpace) and index not in space.allowed:
            return False
        if not limits:
            return True
        wanted = [*self.decided]
        wanted[place] = index
        sizes = self.choices.sizes
        chosen = [
            np.ones(n) if i is None else np.eye(n)[i] for n, i in zip(sizes, wanted, strict=True)
        ]
        arch = step.searchable.derive(chosen, limits)
        if arch is None:
            return False
        genes = space.encode(arch)  # type: ignore[arg-type]
        return all(i is None or i == gene for i, gene in zip(wanted, genes, strict=True))

    def _measured(
        self, step: SearchStep, choice: str, names: list[str], several: list[list[View]]
    ) -> Scores:
        """What mixtures are worth, from the log if it is there."""
        images, size = self.config.score_images, self.config.batch_size
        count = math.ceil(images / size if images else step.held.steps_per_epoch)
        found = self.scores.take(step, choice, names, several, range(count))
        each = zip(names, found.loss, found.accuracy, strict=True)
        text = ", ".join(f"{name} {x:.3f} ({100 * y:.1f} %)" for name, x, y in each)
        log.info("%s: loss (accuracy) without %s", choice, text)
        return found

    def state(self) -> dict[str, Any]:
        """That of the other strategy, and what is decided."""
        own = {"decided": self.decided, "edges": self.edges}
        return self.base.state() | own | {"measured": self.scores.taken, "done": self.done}

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.base.load_state(state)
        self.decided, self.done = state["decided"], state["done"]
        self.scores.taken = state["measured"]
        self.edges = [list(kept) for kept in state["edges"]]


def _drawn(
    choices: Sequence[Choice], places: Sequence[int], rng: np.random.Generator
) -> list[list[int]]:
    """Those of some places in an order that is drawn, of cells of all types together."""
    groups: dict[str, list[int]] = {}
    for place in places:
        name = choices[place].name.removeprefix("normal ").removeprefix("reduce ")
        groups.setdefault(name, []).append(place)
    each = list(groups.values())
    return [each[index] for index in rng.permutation(len(each))]
