"""Candidates that are made of an op and a subset: which they are, draws and exact probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import combinations, permutations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from mobilenas.base.errors import BadInput
from mobilenas.space import Candidate, Choice
from mobilenas.space.edge_cells import NONE

Subset = tuple[int, ...]


@dataclass(frozen=True)
class Parts:
    """What the candidates of a choice are made of: an op and maybe some of several paths.

    Of a block of several paths the ops are its expansions and the identity, the latter without
    paths. Elsewhere each candidate is an op, but for `none`, which is no edge at all. ops: names.
    paths: how many there are to choose from; 0 where nothing has any. pairs: of each candidate its
    op, None for `none`, and its paths.
    """

    ops: tuple[str, ...]
    paths: int
    pairs: tuple[tuple[int | None, Subset], ...]

    @classmethod
    def of(cls, choice: Choice) -> "Parts":
        """The parts of a block or edge. A block of which some number of paths is not offered with
        all subsets, or which has channel groups, has ops alone.
        """
        names = choice.candidates
        blocks = [c for c in map(_parsed, names) if c is not None]
        if len(blocks) == len(names) and any(c.num_paths > 1 for c in blocks):
            kernels = sorted({k for c in blocks for group in c.kernels for k in group})
            ops = tuple(dict.fromkeys(_expansion(c) for c in blocks))
            pairs = tuple(
                (ops.index(_expansion(c)), tuple(kernels.index(k) for g in c.kernels for k in g))
                for c in blocks
            )
            parts = cls(ops, len(kernels), pairs)
            if max(len(c.kernels) for c in blocks) == 1 and parts._has_all_subsets():
                return parts
        ops = tuple(name for name in names if name != NONE)
        return cls(ops, 0, tuple((ops.index(n) if n != NONE else None, ()) for n in names))

    @cached_property
    def numbers(self) -> tuple[int, ...]:
        """How many paths a candidate may have."""
        return tuple(sorted({len(subset) for _, subset in self.pairs} - {0}))

    @cached_property
    def index(self) -> dict[tuple[int | None, Subset], int]:
        """The candidate of an op and its paths."""
        return {pair: index for index, pair in enumerate(self.pairs)}

    def of_op(self, op: int) -> list[int]:
        """The candidates that have an op."""
        return [index for index, (own, _) in enumerate(self.pairs) if own == op]

    def paths_of(self, candidates: Sequence[int]) -> list[int]:
        """The paths that some of them have."""
        return sorted({path for index in candidates for path in self.pairs[index][1]})

    def with_path(self, candidates: Sequence[int], path: int) -> list[int]:
        """Those that have a path."""
        return [index for index in candidates if path in self.pairs[index][1]]

    def _has_all_subsets(self) -> bool:
        every = [s for m in self.numbers for s in combinations(range(self.paths), m)]
        ops = {op for op, subset in self.pairs if subset}
        return all((op, subset) in self.index for op in ops for subset in every)


@dataclass(frozen=True)
class Subsets:
    """The choice of some of `size` edges or paths, as many as one of `numbers`.

    Where they are `apart`, each subset has a parameter. Else each member has one, and so has each
    number where there are several; members are drawn one after another without putting back.
    """

    size: int
    numbers: tuple[int, ...]
    apart: bool

    @cached_property
    def all(self) -> list[Subset]:
        """Every subset, the smaller ones first."""
        return [s for m in self.numbers for s in combinations(range(self.size), m)]

    @property
    def sizes(self) -> list[int]:
        """Of the parameters."""
        if self.apart:
            return [len(self.all)]
        return [self.size] + [len(self.numbers)] * (len(self.numbers) > 1)

    def draw(
        self, parameters: list[Tensor], rng: np.random.Generator, tau: float
    ) -> tuple[Subset, Tensor, Tensor]:
        """A subset; the factor 1 with the gradient of drawing it; and the relaxed members (size,).

        The latter sum up to 1 without `apart`, though several are drawn (Wang et al. 2023).
        """
        beta, *of_numbers = parameters
        noisy, q = perturbed(beta, rng, tau)
        if self.apart:
            place = int(noisy.argmax())
            return self.all[place], opened(q[place]), self.members.to(q).T @ q
        number, factor = 0, torch.ones_like(q[0])
        if of_numbers:
            of_number, share = perturbed(of_numbers[0], rng, tau)
            number = int(of_number.argmax())
            factor = opened(share[number])
        drawn = noisy.topk(self.numbers[number]).indices.sort().values
        return tuple(drawn.tolist()), factor * opened(q[drawn].sum()), q

    def law(self, parameters: list[Tensor]) -> Tensor:
        """How probable each of `all` is, in the graph of the parameters."""
        beta, *of_numbers = parameters
        if self.apart:
            return beta.softmax(0)
        shares = of_numbers[0].softmax(0) if of_numbers else beta.new_ones(1)
        each = [_law(beta, m) * share for m, share in zip(self.numbers, shares, strict=True)]
        return torch.cat(each)

    def scores(self, parameters: list[Tensor]) -> Tensor:
        """Of each of `all` how probable its number and its members are, each relative to the most
        probable one: 1 where both are. By the law alone, numbers with few subsets would be ahead.
        """
        beta, *of_numbers = parameters
        if self.apart:
            return _relative(beta.softmax(0))
        shares = _relative(of_numbers[0].softmax(0)) if of_numbers else beta.new_ones(1)
        laws = (_relative(_law(beta, m)) for m in self.numbers)
        return torch.cat([law * share for law, share in zip(laws, shares, strict=True)])

    def inclusion(self, law: Tensor) -> Tensor:
        """(size,): how probable it is that each is a member."""
        return self.members.to(law).T @ law

    @cached_property
    def members(self) -> Tensor:
        """(subsets, size): 1 where a subset has a member."""
        return torch.tensor([[float(i in subset) for i in range(self.size)] for subset in self.all])


def perturbed(alpha: Tensor, rng: np.random.Generator, tau: float) -> tuple[Tensor, Tensor]:
    """The logarithms of probabilities (n,) with Gumbel noise, and their softmax at a temperature.

    The largest of the former is a draw by the probabilities, the m largest are m draws one after
    another without putting back.
    """
    noisy = alpha.log_softmax(0) + torch.from_numpy(rng.gumbel(size=len(alpha))).to(alpha)
    return noisy, (noisy / tau).softmax(0)


def opened(q: Tensor) -> Tensor:
    """1, to the bit, with the gradient of q."""
    return 1 + (q - q.detach())


def _relative(p: Tensor) -> Tensor:
    return p / p.max()


def _law(beta: Tensor, count: int) -> Tensor:
    """How probable each subset of `count` is: the sum over the orders in which it is drawn."""
    orders, taken, places = _orders(len(beta), count)
    # In logarithms: what is left of 1 would round to 0 where one is nearly sure.
    left = beta.expand(taken.shape).masked_fill(taken, -torch.inf).logsumexp(2)
    of_orders = (beta[orders] - left).sum(1).exp()
    return of_orders.new_zeros(int(places.max()) + 1).index_add(0, places, of_orders)


@cache
def _orders(size: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """All orders (n, count) of so many of `size`; which were taken before each draw (n, count,
    size); and the place of each among the subsets.
    """
    orders = torch.tensor(list(permutations(range(size), count)))
    drawn = one_hot(orders, size)
    subsets = list(combinations(range(size), count))
    places = [subsets.index(tuple(sorted(order))) for order in orders.tolist()]
    return orders, (drawn.cumsum(1) - drawn).bool(), torch.tensor(places)


def _expansion(candidate: Candidate) -> str:
    return "id" if candidate.is_identity else f"e{candidate.expansion}"


def _parsed(name: str) -> Candidate | None:
    """The candidate of a block, None for an op of an edge."""
    try:
        return Candidate.parse(name)
    except BadInput:
        return None
