"""A space with its geometry resolved: which blocks there are, and what each may be."""

import math
from collections import Counter
from collections.abc import Callable, Hashable
from copy import copy
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import combinations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenas.base.errors import BadInput
from mobilenas.base.units import format_image_size
from mobilenas.space.arch import IDENTITY, Arch, Candidate
from mobilenas.space.spec import (
    BN_EPS,
    Activation,
    PathActivation,
    ProductSpec,
    SpaceSpec,
    StageSpec,
)

Genes = NDArray[np.int64]


def split_channels(channels: int, groups: int) -> list[int]:
    """Channels of each group; the first ones take what does not divide."""
    return [channels // groups + (i < channels % groups) for i in range(groups)]


@dataclass(frozen=True)
class Block:
    """Geometry and candidates of one block.

    in_size, out_size: the side of the square feature map; its height where in_width is not None.
    residual: whether the input is added where the shape is kept. path_activation: as in the space.
    """

    name: str
    in_channels: int
    out_channels: int
    stride: int
    in_size: int
    candidates: tuple[Candidate, ...]
    searchable: bool
    activation: Activation
    squeeze_excite: float
    bn_eps: float = BN_EPS
    residual: bool = True
    path_activation: PathActivation = "each"
    in_width: int | None = None

    @property
    def out_size(self) -> int:
        return math.ceil(self.in_size / self.stride)

    @property
    def in_shape(self) -> tuple[int, int]:
        """Height and width of the feature map that comes in."""
        return self.in_size, self.in_size if self.in_width is None else self.in_width

    @property
    def out_shape(self) -> tuple[int, int]:
        return _halved(self.in_shape, self.stride)

    @property
    def keeps_shape(self) -> bool:
        return self.stride == 1 and self.in_channels == self.out_channels

    @property
    def adds_input(self) -> bool:
        return self.residual and self.keeps_shape

    @property
    def has_linear_paths(self) -> bool:
        return self.path_activation == "after_sum"

    def folded(self, candidate: Candidate) -> Candidate:
        """What a candidate is at inference: linear paths, if it has them, fold into one of the
        largest kernel, in each channel group.
        """
        if not self.has_linear_paths:
            return candidate
        return Candidate(candidate.expansion, tuple((max(group),) for group in candidate.kernels))

    @cached_property
    def expansions(self) -> tuple[int, ...]:
        return tuple(sorted({c.expansion for c in self.candidates if not c.is_identity}))

    @cached_property
    def groups(self) -> int:
        """Number of channel groups (1 unless MixNet-like)."""
        return max(len(c.kernels) for c in self.candidates)

    @cached_property
    def max_paths(self) -> int:
        return max(c.num_paths for c in self.candidates)

    @cached_property
    def kernels(self) -> tuple[int, ...]:
        """All kernel sizes that some candidate uses, ascending."""
        return tuple(sorted({k for c in self.candidates for group in c.kernels for k in group}))

    @cached_property
    def forms(self) -> dict[Candidate, Hashable | None]:
        """What each candidate builds: equal for equal modules, None for one that does nothing."""
        return {c: self._form(c) for c in self.candidates}

    @cached_property
    def builders(self) -> dict[Hashable | None, Candidate]:
        """The first candidate that builds each form."""
        return {form: c for c, form in reversed(self.forms.items())}

    def _form(self, candidate: Candidate) -> Hashable | None:
        if candidate.is_identity and self.keeps_shape:
            return None
        channels, shape = (self.in_channels, self.out_channels), (self.stride, self.in_shape)
        geometry = (*channels, *shape, self.adds_input, self.activation, self.squeeze_excite)
        if candidate.expansion < 2:  # without a 1x1 expansion the channels are those of the input
            return geometry, candidate
        # The order of hidden channels is free, as the 1x1 expansion, the squeeze-excite and the
        # projection take them in any; only how many of them have which kernels counts.
        total: Counter[tuple[int, ...]] = Counter()
        hidden = self.in_channels * candidate.expansion
        widths = split_channels(hidden, len(candidate.kernels))
        for width, kernels in zip(widths, candidate.kernels, strict=True):
            total[kernels] += width
        return geometry, candidate.expansion, frozenset(total.items())


class Space:
    """What may be built: the layers in order, and the archs that choose among their candidates.

    layers: all blocks, fixed ones included; blocks: the searchable ones, one gene each.
    backbone_size: height and width of a detector's images; see `backbone`.
    """

    def __init__(self, spec: SpaceSpec, backbone_size: tuple[int, int] | None = None) -> None:
        self.spec = spec
        self.name = spec.name
        self.is_backbone = backbone_size is not None
        self.image_size = backbone_size or (spec.resolution, spec.resolution)
        if self.is_backbone:
            self.name += f" (backbone at {format_image_size(self.image_size)} px)"
        self.resolution = spec.resolution
        self.num_classes = spec.num_classes
        plan = (spec.stem.channels, *(s.channels for s in spec.stages), spec.head.channels)
        own = spec.channels or map(self.scaled, plan)
        self.stem_channels, *self._stage_channels, self.head_channels = own
        self.stem_activation: Activation = spec.stem.activation or spec.activation
        self.head_activation: Activation = spec.head.activation or spec.activation
        self._set_layers(self._resolve())

    def _set_layers(self, layers: tuple[Block, ...]) -> None:
        self.layers = layers
        self.blocks = tuple(block for block in layers if block.searchable)
        if not self.blocks:
            raise BadInput(f"space {self.name}: every stage is fixed; at least one is searchable")
        self.num_candidates: Genes = np.array([len(b.candidates) for b in self.blocks])
        self._index = [{c: i for i, c in enumerate(b.candidates)} for b in self.blocks]

    @property
    def num_archs(self) -> int:
        return math.prod(len(block.candidates) for block in self.blocks)

    def scaled(self, channels: int) -> int:
        """Channels times width, to the nearest multiple of the divisor, never below 90 %.

        The rounding of MobileNetV2 (Sandler et al. 2018); width 1 leaves channels as they are.
        """
        if self.spec.width == 1:
            return channels
        divisor, exact = self.spec.divisor, channels * self.spec.width
        rounded = max(divisor, int(exact + divisor / 2) // divisor * divisor)
        return rounded + divisor if rounded < 0.9 * exact else rounded

    def sample(self, rng: np.random.Generator) -> Arch:
        """One arch. A single-path block is uniform over its candidates; a multi-path block is
        drawn as MixPath does: expansion, then number of paths, then the paths, each uniform.
        """
        return Arch(tuple(_draw(block, rng) for block in self.blocks))

    def sample_genes(self, n: int, rng: np.random.Generator) -> Genes:
        """n archs drawn uniformly from the whole space, as genes (n, blocks)."""
        return rng.integers(0, self.num_candidates, size=(n, len(self.blocks)))

    def parse(self, text: str) -> Arch:
        """The arch of a text form. Raises BadInput naming the block and the reason."""
        arch = Arch.parse(text)
        self.encode(arch)
        return arch

    def encode(self, arch: Arch) -> Genes:
        """Genes (blocks,): per block the index of its candidate. Raises BadInput."""
        if len(arch) != len(self.blocks):
            raise BadInput(f"arch has {len(arch)} blocks, space {self.name} has {len(self.blocks)}")
        for block, candidate, index in zip(self.blocks, arch.blocks, self._index, strict=True):
            if candidate not in index:
                raise BadInput(f"arch {block.name}: {_reason(block, candidate)}")
        return np.array([index[c] for index, c in zip(self._index, arch.blocks, strict=True)])

    def decode(self, genes: Genes) -> Arch:
        """The arch of genes (blocks,)."""
        pairs = zip(self.blocks, genes, strict=True)
        return Arch(tuple(block.candidates[int(gene)] for block, gene in pairs))

    def candidates_of(self, arch: Arch) -> list[Candidate]:
        """The candidate of every layer, fixed ones included."""
        chosen = iter(arch.blocks)
        return [next(chosen) if b.searchable else b.candidates[0] for b in self.layers]

    def canonical(self, arch: Arch) -> Arch:
        """The one name of a network that has several: equal networks have equal canonical archs.

        An identity that keeps the shape does nothing, so the candidates after it move to the front
        wherever the blocks there offer them: of NAS-Bench-Macro's 6,561 archs 3,969 remain (Su et
        al. 2021). Channel groups behind a 1x1 expansion may change places; the first candidate with
        these groups is taken. Raises BadInput for an arch of another space.
        """
        self.encode(arch)
        chosen = zip(self.layers, self.candidates_of(arch), strict=True)
        forms = [form for b, c in chosen if (form := b.forms[c]) is not None]

        @cache
        def place(layer: int, form: int) -> tuple[Candidate, ...] | None:
            """Candidates that build the forms from there on in the layers from there on, each form
            as early as possible; None if there are none (a later layer may lack the identity).
            """
            if layer == len(self.layers):
                return () if form == len(forms) else None
            builders = self.layers[layer].builders
            if form < len(forms) and forms[form] in builders:
                rest = place(layer + 1, form + 1)
                if rest is not None:
                    return builders[forms[form]], *rest
            if None in builders:
                rest = place(layer + 1, form)
                if rest is not None:
                    return builders[None], *rest
            return None

        placed = place(0, 0)
        assert placed is not None  # the arch itself is one way to place them
        pairs = zip(self.layers, placed, strict=True)
        return Arch(tuple(c for block, c in pairs if block.searchable))

    def backbone(self, height: int, width: int) -> "Space":
        """The same archs as a detector sees them: on images of this size, without the head.

        For costs only: networks and plain data are those of the space itself.
        """
        return Space(self.spec, (height, width))

    def keep(self, admits: Callable[[Block, Candidate], bool]) -> "Space":
        """The same layers, whose searchable blocks have only the candidates that are admitted.

        For drawing archs and for costs only: networks and plain data are those of the whole space.
        """
        part = copy(self)
        part._set_layers(
            tuple(
                replace(b, candidates=tuple(c for c in b.candidates if admits(b, c)))
                if b.searchable
                else b
                for b in self.layers
            )
        )
        return part

    def to_dict(self) -> dict[str, Any]:
        """Plain data from which `space_from_dict` rebuilds the space."""
        return self.spec.model_dump(mode="json")

    def _resolve(self) -> tuple[Block, ...]:
        spec = self.spec
        channels = self.stem_channels
        size = _halved(self.image_size, spec.stem.stride)
        layers: list[Block] = []
        for stage, out in zip(spec.stages, self._stage_channels, strict=True):
            for position in range(stage.blocks):
                stride = stage.stride if position == 0 else 1
                shape_kept = stride == 1 and channels == out
                searchable = stage.fixed is None
                label = sum(b.searchable for b in layers) + 1
                block = Block(
                    name=f"block {label}" if searchable else f"fixed layer {len(layers) + 1}",
                    in_channels=channels,
                    out_channels=out,
                    stride=stride,
                    in_size=size[0],
                    candidates=_candidates(spec, stage, shape_kept),
                    searchable=searchable,
                    activation=stage.activation or spec.activation,
                    squeeze_excite=(
                        spec.squeeze_excite
                        if stage.squeeze_excite is None
                        else stage.squeeze_excite
                    ),
                    bn_eps=spec.bn_eps,
                    residual=position > 0 or spec.residual_across_stages,
                    path_activation=spec.path_activation,
                    in_width=None if size[0] == size[1] else size[1],
                )
                _check_groups(spec, block)
                layers.append(block)
                channels, size = out, block.out_shape
        return tuple(layers)


def _halved(shape: tuple[int, int], stride: int) -> tuple[int, int]:
    """Height and width behind a convolution of that stride."""
    height, width = shape
    return math.ceil(height / stride), math.ceil(width / stride)


def _check_groups(spec: SpaceSpec, block: Block) -> None:
    """Raise BadInput for a block with fewer hidden channels than channel groups."""
    hidden = block.in_channels * min(block.expansions, default=block.groups)
    if hidden < block.groups:
        raise BadInput(
            f"space {spec.name}: {block.name} has {hidden} hidden channels at its smallest "
            f"expansion; its {block.groups} channel groups need at least as many"
        )


def _candidates(spec: SpaceSpec, stage: StageSpec, shape_kept: bool) -> tuple[Candidate, ...]:
    if stage.fixed is not None:
        return (Candidate.parse(stage.fixed),)
    choice = spec.candidates if stage.candidates is None else stage.candidates
    if not isinstance(choice, ProductSpec):
        if not choice or len(set(choice)) < len(choice):
            raise BadInput(
                f"space {spec.name}: candidates {list(choice)} must be distinct, not empty"
            )
        parsed = tuple(Candidate.parse(text) for text in choice)
        if len({len(c.kernels) for c in parsed if not c.is_identity}) != 1:
            raise BadInput(
                f"candidates {list(choice)} must hold one besides id, all of as many channel groups"
            )
        return parsed
    subsets = [
        subset
        for count in range(1, choice.max_paths + 1)
        for subset in combinations(choice.kernels, count)
    ]
    kernels = list(product(subsets, repeat=choice.groups))
    identity = (IDENTITY,) if choice.skip and shape_kept else ()
    return identity + tuple(Candidate(e, k) for e in choice.expansions for k in kernels)


def _draw(block: Block, rng: np.random.Generator) -> Candidate:
    options = list(block.candidates)
    if block.max_paths > 1:
        for key in (lambda c: c.expansion, lambda c: c.num_paths):
            values = sorted({key(c) for c in options})
            chosen = values[rng.integers(len(values))]
            options = [c for c in options if key(c) == chosen]
    return options[rng.integers(len(options))]


def _reason(block: Block, candidate: Candidate) -> str:
    if candidate.is_identity:
        return "the identity is not offered here"
    if candidate.expansion not in block.expansions:
        return f"expansion {candidate.expansion} of {candidate} is not in {list(block.expansions)}"
    if len(candidate.kernels) != block.groups:
        return f"{candidate} has {len(candidate.kernels)} channel groups, not {block.groups}"
    if candidate.num_paths > block.max_paths:
        return f"{candidate} has {candidate.num_paths} paths, at most {block.max_paths} are allowed"
    unknown = sorted({k for group in candidate.kernels for k in group} - set(block.kernels))
    if unknown:
        return f"kernels {unknown} of {candidate} are not in {list(block.kernels)}"
    return f"{candidate} is not one of {[str(c) for c in block.candidates]}"
