"""SVGe (Lukasik et al. 2021): a search in the latent space of an autoencoder of archs."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mobilenas.base.errors import BadInput
from mobilenas.base.randomness import Stream, fixed_generators
from mobilenas.nn.views import Views
from mobilenas.space import Arch, EdgeCellSpace, Genotype
from mobilenas.strategies.choices import Choices
from mobilenas.strategies.config import Repeats, SearchConfig
from mobilenas.strategies.graph_vae import GraphVae, climb, train_predictor, train_vae
from mobilenas.strategies.learned import LearnedStrategy, draw
from mobilenas.strategies.search_step import SearchStep
from mobilenas.strategies.searchable import Searchable
from mobilenas.train.config import NotNegative, Positive

_GROUP = 10  # archs that are measured together: what a kill can lose
_TRIES = 20  # archs that are drawn for each that is needed
_CLIMBS, _SIZE = 20, 0.05  # steps up the prediction, and their size
_SPREAD = 1.0  # of the points around the best that they start from, over that of the best
_SHARPNESS = 3.0  # of the probabilities: by how many deviations an arch is better

log = logging.getLogger(__name__)


class SvgeConfig(SearchConfig):
    """labels: archs that are measured first; rounds: searches in the latent space after that, of
    round_archs archs each. score_images: held-out images that archs are measured on. vae_steps: of
    the autoencoder's training. cost_form: no loss has the expected costs, archs are worth less by
    their own.
    """

    labels: Repeats = 100
    rounds: Repeats = 5
    round_archs: Repeats = 10
    score_images: Positive = 256
    vae_steps: Repeats = 500
    cost_form: Literal["add"] = "add"
    cost_weight: NotNegative = 0.1


class Svge(LearnedStrategy):
    """No gradient through the supernet: its weights learn from archs that are drawn uniformly, one
    a step, or come from `supernet-train` and stay. After the last step archs are measured. An
    autoencoder learns to encode archs that are drawn, a predictor on its latent points what the
    measured ones are worth: held-out accuracy minus cost_weight times what costs are over the
    limits. Points around those of the best archs climb the prediction and are decoded; the most
    promising new archs are measured, and so on. The best measured arch within the limits is the
    answer.

    The parameters say how often the better archs have each candidate; nothing is drawn from them.
    """

    Config = SvgeConfig
    is_dense = False
    starts_from = "supernet"
    answer = "the best measured arch"
    config: SvgeConfig
    score_file = "labels.jsonl"

    def __init__(self, choices: Choices, config: SearchConfig, seed: int) -> None:
        super().__init__(choices, config, seed)
        # Of measured archs, by genes; of as many images many are equal in accuracy, not in loss.
        self.worth: dict[tuple[int, ...], float] = {}
        self.losses: dict[tuple[int, ...], float] = {}

    @classmethod
    def check(cls, searchable: Searchable, config: SearchConfig) -> None:
        """Raises BadInput where archs are not all of one graph."""
        space = searchable.space
        if isinstance(space, EdgeCellSpace) and space.skeleton.in_degree:
            raise BadInput(
                f"space {space.name}: its cells choose their edges too; svge takes nb201, and "
                "spaces of blocks, whose graph is fixed"
            )

    def views(self, step: SearchStep, stream: Stream) -> Views:
        """One arch, uniform over all."""
        return draw([torch.ones(size) for size in self.choices.sizes], step.rng(stream))

    def step(self, step: SearchStep) -> None:
        """The weights, where they learn; with the last step the search."""
        if self.trains_weights:
            self.fit(step)
        if step.learnt == step.learning_steps - 1:
            self.learn(step)

    def reach(self, steps: int) -> str | None:
        """It has no such rate."""
        return None

    def learn(self, step: SearchStep) -> None:
        """The search in the latent space."""
        rng, config = step.rng(Stream.ARCH_STEP), self.config
        sizes = self.choices.sizes
        with fixed_generators(step.trainer.seed, Stream.GRAPHS, step.n):
            drawn = rng.integers(0, sizes, (_TRIES * config.labels, len(sizes)))
            self._measure(step, _distinct(drawn, {}, config.labels))
            vae = GraphVae(sizes, _before(step.searchable, len(sizes)))
            train_vae(
                vae,
                lambda n: torch.from_numpy(rng.integers(0, sizes, (n, len(sizes)))),
                config.vae_steps,
            )
            for number in range(config.rounds):
                genes, labels = self._labelled()
                train_predictor(vae, genes, labels, config.vae_steps // 5)
                self._measure(step, self._promising(vae, genes, labels))
                best, count = max(self.worth.values()), len(self.worth)
                log.info("round %d: %d archs, the best is worth %.4f", number + 1, count, best)
        self._remember()

    def derive(self, searchable: Searchable, limits: Mapping[str, float]) -> Arch | Genotype | None:
        """The best measured arch within the limits; where none is, the most probable one."""
        for genes in sorted(self.worth, key=lambda g: (-self.worth[g], self.losses[g], g)):
            certain = [np.eye(n)[g] for n, g in zip(self.choices.sizes, genes, strict=True)]
            arch = searchable.derive(certain, limits)
            if arch == searchable.space.decode(np.array(genes)):
                return arch
        if self.worth:
            log.warning(
                "svge: none of the %d measured archs is within the limits, so the arch is one that "
                "was not measured; more labels help",
                len(self.worth),
            )
        return super().derive(searchable, limits)

    def state(self) -> dict[str, Any]:
        """What was measured too."""
        own = {"archs": [list(genes) for genes in self.worth], "worth": [*self.worth.values()]}
        own["losses"] = [*self.losses.values()]
        return super().state() | own | {"measured": self.scores.taken}

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        super().load_state(state)
        archs = [*map(tuple, state["archs"])]
        self.worth = dict(zip(archs, state["worth"], strict=True))
        self.losses = dict(zip(archs, state["losses"], strict=True))
        self.scores.taken = state["measured"]

    def _measure(self, step: SearchStep, archs: Sequence[tuple[int, ...]]) -> None:
        """What archs are worth, through the supernet; each group is on disk once it is measured."""
        batches = range(math.ceil(self.config.score_images / self.config.batch_size))
        for start in range(0, len(archs), _GROUP):
            group = archs[start : start + _GROUP]
            names = [step.searchable.name(genes) for genes in group]
            # With other threads the models round otherwise, and come to other archs after a kill.
            self.scores.drop_others("archs", names)
            found = self.scores.take(step, "archs", names, group, batches)
            for genes, loss, accuracy in zip(group, found.loss, found.accuracy, strict=True):
                certain = [torch.eye(n)[g] for n, g in zip(self.choices.sizes, genes, strict=True)]
                over = float(step.cost.excess(certain))
                self.worth[genes] = accuracy - self.config.cost_weight * over
                self.losses[genes] = loss

    def _labelled(self) -> tuple[Tensor, Tensor]:
        """Genes (n, choices) and standardised worth (n,) of all that was measured."""
        worth = torch.tensor([*self.worth.values()])
        scale = worth.std(correction=0).clamp_min(1e-12)
        return torch.tensor([*self.worth]), (worth - worth.mean()) / scale

    def _promising(self, vae: GraphVae, genes: Tensor, labels: Tensor) -> list[tuple[int, ...]]:
        """New archs, from around the best measured ones upwards, in the order of the prediction."""
        best = genes[labels.argsort(descending=True, stable=True)[: self.config.round_archs]]
        with torch.no_grad():
            z = vae.encode(best)[0].repeat(_TRIES, 1)
        z = climb(vae, z + _SPREAD * z.std() * torch.randn_like(z), _CLIMBS, _SIZE)
        with torch.no_grad():
            decoded = vae.decode(z)
            order = vae.predictor(vae.encode(decoded)[0])[:, 0].argsort(
                descending=True, stable=True
            )
        return _distinct(decoded[order].numpy(), self.worth, self.config.round_archs)

    def _remember(self) -> None:
        """How often the better archs have each candidate."""
        genes, labels = self._labelled()
        weights = (_SHARPNESS * labels).softmax(0)
        with torch.no_grad():
            for alpha, own in zip(self.parameters, genes.T, strict=True):
                alpha.copy_(torch.zeros_like(alpha).index_add(0, own, weights).add(1e-6).log())


def _distinct(
    rows: np.ndarray[Any, np.dtype[np.int64]], known: Mapping[tuple[int, ...], float], most: int
) -> list[tuple[int, ...]]:
    """The first distinct archs that are not known."""
    names = dict.fromkeys(tuple(row) for row in rows.tolist())
    return [genes for genes in names if genes not in known][:most]


def _before(searchable: Searchable, count: int) -> list[list[int]]:
    """Of each choice those whose outputs it takes: of a block the block before it, of an edge the
    edges into the node that it leaves.
    """
    space = searchable.space
    if isinstance(space, EdgeCellSpace):
        return [[e for e, (_, end) in enumerate(space.edges) if end == a] for a, _ in space.edges]
    return [[place - 1] if place else [] for place in range(count)]
