"""A supernet of which the right arch is known, and steps of a search through it."""

import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from mobilenas.cost.edge_model import costs_of
from mobilenas.nn.views import View, Views, mix
from mobilenas.space import (
    Choice,
    EdgeCellSpace,
    Space,
    load_listed_space,
    load_space,
    space_from_dict,
)
from mobilenas.strategies.choices import Choices
from mobilenas.strategies.config import SearchConfig
from mobilenas.strategies.expected_cost import ExpectedCost
from mobilenas.strategies.learned import LearnedStrategy
from mobilenas.strategies.search_step import SearchStep
from mobilenas.strategies.searchable import Searchable
from mobilenas.train.distributed import SINGLE, Processes
from mobilenas.train.recipe import Objective
from mobilenas.train.trainer import Trainer

CLASSES, FEATURES = 4, 8
PLANTED = 1
STEPS = 150  # of a search
SPACE = "digits:width=0.5,resolution=8"  # for its blocks' costs


def two_blocks() -> Space:
    """A space that has as many blocks as most toys."""
    return blocks(2)


def blocks(count: int) -> Space:
    """A space that has as many blocks as a toy."""
    data = load_space(SPACE).to_dict()
    stages = [data["stages"][0] | {"blocks": count}]
    return space_from_dict(data | {"stages": stages, "num_classes": CLASSES})


def cells(name: str) -> EdgeCellSpace:
    """A narrow space of cells: nb201 or darts."""
    count = 1 if name == "nb201" else 3
    space = load_listed_space(f"{name}:channels=4,cells={count},resolution=8,num_classes={CLASSES}")
    assert isinstance(space, EdgeCellSpace)
    return space


def searched(space: Space | EdgeCellSpace) -> Searchable:
    """A space as strategies search it."""
    return Searchable(costs_of(space))


def choices(*sizes: int) -> Choices:
    """Blocks of so many candidates."""
    return Choices(tuple(Choice("block", tuple(map(str, range(size)))) for size in sizes))


def planted(x: Tensor) -> Callable[[Sequence[int]], list[Tensor]]:
    """What three candidates make of their input: one passes it on, two put out noise."""
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(len(x)))
    return lambda ids: [x if i == PLANTED else noise for i in ids]


class Toy(nn.Module):
    """Blocks of three candidates, of which one is right."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.blocks = blocks
        self.classifier = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor, views: Views) -> Tensor:
        for view in views:
            x = mix(view, planted(x))
        return cast(Tensor, self.classifier(x.flatten(1)))


class Fixed(nn.Module):
    """Each candidate adds its own vector; logits are the sum. Nothing depends on the images."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        drawn = np.random.default_rng(3)
        self.vectors = [torch.tensor(drawn.normal(size=(n, 4))) for n in sizes]
        self.bias = nn.Parameter(torch.zeros(4, dtype=torch.float64))

    def forward(self, x: Tensor, views: Views) -> Tensor:
        total = self.bias.expand(len(x), 4)
        for vectors, view in zip(self.vectors, views, strict=True):
            total = total + mix(view, lambda ids, own=vectors: [own[i] for i in ids])  # type: ignore[misc]
        return total


class ToyCells(nn.Module):
    """The cells of a space whose edges have three ops each, of which one is right. A node is the
    mean of its edges, a cell that of its nodes.
    """

    def __init__(self, space: EdgeCellSpace) -> None:
        super().__init__()
        self.space = space
        self.classifier = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor, views: Views) -> Tensor:
        edges, first = len(self.space.edges), self.space.nodes[0]
        count = edges + len(self.space.nodes)
        for start in range(0, len(views), count):
            ops, inputs = views[start : start + edges], views[start + edges : start + count]
            states = [x] * first
            for into, view in zip(self.space.into, inputs, strict=True):
                states.append(mix(view, partial(_entering, states, ops[into])) / _size(view))
            x = torch.stack(states[first:]).mean(0)
        return cast(Tensor, self.classifier(x.flatten(1)))


def _entering(states: list[Tensor], ops: Views, starts: Sequence[int]) -> list[Tensor]:
    return [mix(ops[start], planted(states[start])) for start in starts]


def _size(view: View) -> int:
    return 1 if isinstance(view, int) else len(view)


class Batches:
    """Feature vectors around the mean of their class."""

    steps_per_epoch = 2

    def __init__(self, seed: int, size: int = 32) -> None:
        self.seed, self.size = seed, size

    def __call__(self, n: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(1000 * self.seed + n)
        labels = torch.randint(CLASSES, (self.size,), generator=generator)
        means = torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(7))
        x = means[labels] + 0.3 * torch.randn(self.size, FEATURES, generator=generator)
        return x[..., None, None], labels

    def iterate(self, start: int, stop: int) -> Iterator[tuple[Tensor, Tensor]]:
        return map(self, range(start, stop))


class ImageBatches(Batches):
    """Images of the space, each class of another colour."""

    def __call__(self, n: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(1000 * self.seed + n)
        labels = torch.randint(CLASSES, (self.size,), generator=generator)
        means = torch.randn(CLASSES, 3, 8, 8, generator=torch.Generator().manual_seed(7))
        return means[labels] + 0.3 * torch.randn(self.size, 3, 8, 8, generator=generator), labels


class Steps:
    """`steps(n)` is step n of a search through a module.

    limits: {cost: largest value} of the space's archs.
    """

    def __init__(
        self,
        module: nn.Module,
        config: SearchConfig,
        batches: Callable[[int], Batches] = Batches,
        limits: dict[str, float] | None = None,
        space: Space | EdgeCellSpace | None = None,
        processes: Processes = SINGLE,
    ) -> None:
        self.config = config
        self.trainer = Trainer(module, config, cast(Any, batches(1)), processes=processes)
        self.held = cast(Any, batches(2))
        self.searchable = searched(space or two_blocks())
        self.cost = ExpectedCost(
            self.searchable.costs,
            limits or {},
            config.cost_form,
            config.cost_weight,
            config.cost_power,
        )

    def __call__(self, n: int, progress: float = 0.0) -> SearchStep:
        objective = Objective(self.config, CLASSES, 0, None)
        return SearchStep(
            *(self.trainer, objective, self.held, self.searchable, self.cost, n, n, progress),
            steps=STEPS,
        )


def configured(strategy: type[LearnedStrategy], **settings: Any) -> SearchConfig:
    """A recipe without decay, whose rates suit a toy."""
    usual = {"lr": 0.1, "weight_decay": 0.0, "optimizer": "momentum", "batch_size": 32}
    usual |= {"filter_bias_and_bn": False}
    return strategy.Config(**(usual | {"device": "cpu", "arch_lr": 0.1} | settings))


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers."""
    return {name: value.clone() for name, value in module.state_dict().items()}


class Saved:
    """A tensor that is kept for backward."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def saved_bytes(module: nn.Module, *arguments: Any) -> int:
    """Bytes of distinct storages that a forward keeps for backward, parameters left out.

    What nothing leads back to, as behind an output that is not used, is let go within the forward
    and not counted.
    """
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    saved: list[weakref.ref[Saved]] = []

    def pack(x: Tensor) -> Saved:
        kept = Saved(x)
        saved.append(weakref.ref(kept))
        return kept

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
        output = module(*arguments)  # noqa: F841 - while it lives, what leads back to it does
    storages = [kept.tensor.untyped_storage() for each in saved if (kept := each())]
    sizes = {x.data_ptr(): x.nbytes() for x in storages}
    return sum(size for pointer, size in sizes.items() if pointer not in own)
