"""The YAML schema of a space. docs/spaces.md explains each key with examples."""

from math import comb
from typing import Annotated, Literal

from pydantic import Field, model_validator

from mobilenas.base.settings import Record
from mobilenas.space.arch import MOST_EXPANSION

Activation = Literal["relu", "relu6", "swish", "hard_swish"]
PathActivation = Literal["each", "after_sum"]
Kernel = Literal[1, 3, 5, 7, 9]
_MOST_CHANNELS = 1 << 14
# Upper bounds are far beyond what is built: a number with a slip in it is refused at once.
Positive = Annotated[int, Field(ge=1, le=1024)]
Channels = Annotated[int, Field(ge=1, le=_MOST_CHANNELS)]
Resolution = Annotated[int, Field(ge=1, le=1 << 12)]
Classes = Annotated[int, Field(ge=2, le=10**6)]
Expansion = Annotated[int, Field(ge=1, le=MOST_EXPANSION)]
Squeezed = Annotated[float, Field(ge=0, le=64)]
Texts = Annotated[tuple[str, ...], Field(max_length=1024)]
_MOST_CANDIDATES = 100_000  # of all blocks together

BN_EPS = 1e-5  # what batch norms add to the variance; torch's default


class StemSpec(Record):
    """First convolution, with batch norm and activation."""

    channels: Channels
    kernel: Kernel = 3
    stride: Literal[1, 2] = 1
    activation: Activation | None = None


class HeadSpec(Record):
    """1x1 convolution with batch norm and activation, global average pool, dropout, linear."""

    channels: Channels
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    activation: Activation | None = None


class ProductSpec(Record):
    """Candidates as a product: expansions x kernel subsets of 1..max_paths (x identity).

    groups > 1 splits the hidden channels, each group taking one kernel (MixNet).
    skip offers the identity too, where input and output shapes agree.
    """

    expansions: Annotated[tuple[Expansion, ...], Field(min_length=1, max_length=64)]
    kernels: Annotated[tuple[Kernel, ...], Field(min_length=1)]
    max_paths: Positive = 1
    groups: Annotated[int, Field(ge=1, le=16)] = 1
    skip: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> "ProductSpec":
        for name in ("expansions", "kernels"):
            values = list(getattr(self, name))
            if values != sorted(set(values)):
                raise ValueError(f"{name} {values} must be ascending and distinct")
        if self.max_paths > len(self.kernels):
            raise ValueError(
                f"max_paths {self.max_paths} is more than the {len(self.kernels)} kernels"
            )
        if self.groups > 1 and self.max_paths > 1:
            raise ValueError("groups > 1 take one kernel each: max_paths must be 1")
        return self


class StageSpec(Record):
    """`blocks` blocks in a row; only the first has the stride. Either searchable or `fixed`.

    candidates (a product, or a list of text forms such as [id, e3k3, e6k5]), activation and
    squeeze_excite replace the space's own. In a list, `id` is a 1x1 convolution with batch norm
    where the shape changes.
    """

    channels: Channels
    stride: Literal[1, 2] = 1
    blocks: Positive = 1
    fixed: str | None = None
    candidates: ProductSpec | Texts | None = None
    activation: Activation | None = None
    squeeze_excite: Squeezed | None = None

    @model_validator(mode="after")
    def _either(self) -> "StageSpec":
        if self.fixed is not None and self.candidates is not None:
            raise ValueError("a stage is either fixed or has candidates, not both")
        return self


class SpaceSpec(Record):
    """A whole space. `width` multiplies all channels but the classes, rounded to `divisor`.

    squeeze_excite is the squeezed width as a share of the block's input channels; 0 means none.
    Stem, head and stages may have an activation of their own. bn_eps is what batch norms add to the
    variance.

    channels, of the stem, every stage and the head, replace theirs and are used as they are (width
    is 1 then). residual_across_stages: whether the first block of a stage, too, adds its input
    where the shape is kept; ProxylessNAS networks of any width do not.

    path_activation: whether each depthwise path has an activation of its own, as in the released
    MixPath code, or the paths are linear and the activation comes after their sum.
    """

    name: str
    description: str
    resolution: Resolution
    num_classes: Classes
    in_channels: Positive = 3
    activation: Activation = "relu6"
    path_activation: PathActivation = "each"
    width: Annotated[float, Field(gt=0, le=64)] = 1.0
    divisor: Positive = 8
    squeeze_excite: Squeezed = 0.0
    bn_eps: Annotated[float, Field(gt=0, le=1)] = BN_EPS
    residual_across_stages: bool = True
    channels: tuple[Channels, ...] | None = None
    stem: StemSpec
    candidates: ProductSpec | Texts
    stages: Annotated[tuple[StageSpec, ...], Field(min_length=1)]
    head: HeadSpec

    @model_validator(mode="after")
    def _small_enough(self) -> "SpaceSpec":
        plan = (self.stem.channels, *(s.channels for s in self.stages), self.head.channels)
        if max(plan) * self.width > _MOST_CHANNELS:
            raise ValueError(
                f"width {self.width:g} makes {max(plan) * self.width:,.0f} of {max(plan)} channels;"
                f" at most {_MOST_CHANNELS:,} are built"
            )
        count = sum(
            stage.blocks * (1 if stage.fixed else _count(each))
            for stage in self.stages
            for each in [self.candidates if stage.candidates is None else stage.candidates]
        )
        if count > _MOST_CANDIDATES:
            raise ValueError(
                f"stages: they have {count:,} candidates; at most {_MOST_CANDIDATES:,} are built"
            )
        return self

    @model_validator(mode="after")
    def _consistent(self) -> "SpaceSpec":
        if self.channels is None:
            return self
        if len(self.channels) != len(self.stages) + 2:
            raise ValueError(
                f"channels {list(self.channels)}: must be {len(self.stages) + 2} numbers, of the "
                f"stem, {len(self.stages)} stages and the head"
            )
        if self.width != 1:
            raise ValueError(f"width {self.width:g} must be 1 where channels are given")
        return self


def _count(candidates: ProductSpec | Texts) -> int:
    """How many candidates a block has, the identity of a product not counted."""
    if not isinstance(candidates, ProductSpec):
        return len(candidates)
    kernels = len(candidates.kernels)
    subsets = sum(comb(kernels, paths) for paths in range(1, candidates.max_paths + 1))
    return int(len(candidates.expansions) * subsets**candidates.groups)
