"""What a page relies on in the files of runs; what more they have is left alone.

Files may be damaged, edited or of another version: what is checked here is a part that is left out,
with its reason, and no surprise further on.
"""

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from mobilenas.base.settings import Count, Number, Record, Share, is_number
from mobilenas.cost.titles import is_cost

Positive = Annotated[int, Field(ge=1)]


class _Known(Record, extra="allow"):
    """Keys that are relied on; others are kept."""


class _Priced(_Known):
    """Of an arch, whose costs, of whatever name, are numbers."""

    @model_validator(mode="after")
    def _costs_are_numbers(self) -> Self:
        for key, value in (self.model_extra or {}).items():
            if is_cost(key) and not is_number(value):
                raise ValueError(f"{key} must be a number")
        return self


class FoundData(_Known):
    """Of facts.data of a run.json."""

    source: str
    train_images: Count
    test_images: Count
    classes: tuple[str, ...]


class _Named(_Known):
    name: str


class _Space(_Named):
    resolution: Count | None = None


class Asked(_Known):
    """Of the settings of any run over a space."""

    space: _Space
    seed: Count | None = None
    arch: str | None = None
    limits: Annotated[dict[str, Number], Field(default_factory=dict)]
    strategy: str = ""
    config: Annotated[dict[str, Any], Field(default_factory=dict)]
    inherit: str | None = None
    weights: str | None = None


class Evaluated(_Priced):
    """A line of evaluations.jsonl."""

    generation: Count
    arch: str
    accuracy: Share


class Logged(_Known):
    """A line of log.jsonl."""

    passes: Number | None = None
    epoch: Number | None = None
    loss: Number | None = None
    accuracy: Share | None = None
    entropy: Number | None = None
    skip: Number | None = None


class _Cost(_Priced):
    arch: str
    flops: Number
    params: Number


class Trained(_Cost):
    """result.json of a stand-alone training."""

    accuracy: Share
    last_accuracy: Share
    validation_images: Positive
    test_accuracy: Share | None
    test_images: Count
    latency_ms: dict[str, Number]

    @model_validator(mode="after")
    def _tested(self) -> Self:
        if self.test_images and self.test_accuracy is None:
            raise ValueError("test_accuracy must be a number where there are test images")
        return self


class _Member(_Cost):
    name: str
    accuracy_inherited_bn: Share
    accuracy_recalibrated: Share


class Validated(_Known):
    """result.json of a supernet."""

    validation: tuple[_Member, ...]


class _Truth(_Known):
    arch: str
    accuracy: Share
    flops: Number | None = None


class Truths(_Known):
    """result.json of several stand-alone trainings."""

    archs: tuple[_Truth, ...]


class _Standing(_Known):
    accuracy: Share
    place: Count
    total: Count
    regret: dict[str, Number]
    random_mean: Share
    random_sd: Number
    largest: Share


class Learnt(_Known):
    """front.json of a search by gradient."""

    front: Annotated[tuple[_Cost, ...], Field(min_length=1, max_length=1)]
    probabilities: tuple[tuple[Number, ...], ...]
    passes: Number
    standing: dict[str, _Standing]


class _Estimate(_Known):
    value: Number | None
    low: Number | None
    high: Number | None

    @model_validator(mode="after")
    def _all_or_none(self) -> Self:
        if len({x is None for x in (self.value, self.low, self.high)}) > 1:
            raise ValueError("value, low and high must be all numbers or all null")
        return self


class _Predictor(_Known):
    evidence: bool
    kendall: _Estimate
    spearman: _Estimate
    pearson: _Estimate


class _Ranked(_Known):
    arch: str
    truth: Share
    supernet: Share
    flops: Number


class Ranking(_Known):
    """rank.json."""

    space: str
    n: Count
    networks: Count
    truth: str
    ceiling: Number | None
    recalibrated: bool
    min_evidence: Count
    seed: Count
    predictors: dict[str, _Predictor]
    archs: Annotated[tuple[_Ranked, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _has_the_supernet(self) -> Self:
        if "supernet" not in self.predictors:
            raise ValueError("predictors must have supernet")
        return self


class _Total(_Known):
    total: Number


class _Images(_Known):
    images: Count
    annotations: Count


class _Validation(_Known):
    val: _Images


class Detected(_Known):
    """result.json of a detector; without an arch of a backbone that is none of a space, without
    precisions where none is measured.
    """

    config: str
    arch: str | None
    AP: Share | None
    AP50: Share | None
    AP75: Share | None
    AP_small: Share | None
    AP_medium: Share | None
    AP_large: Share | None
    classes: dict[str, Share | None]
    flops: _Total
    params: _Total
    data: _Validation


class Step(_Known):
    """A line of mmengine's scalars.json."""

    step: Number
    loss: Number | None = None


class Parity(_Known):
    """Of a batch size."""

    batch_size: Count
    max_rel: Number
    top1_agreement: Share


class _Verification(_Known):
    images: Count
    parity: Annotated[tuple[Parity, ...], Field(min_length=1)]
    exported_accuracy: Share | None
    torch_accuracy: Share | None


class Proof(_Known):
    """What an export stored of its proof."""

    runtime: str
    dtype: str
    verification: _Verification


class Timed(_Known):
    """What `bench --save` stored."""

    ms: Number
    spread_ms: Number
    threads: Count


def plain(record: Record) -> dict[str, Any]:
    """A record as plain data, lists included."""
    return record.model_dump(mode="json")


def plain_rows(records: list[Record]) -> list[dict[str, Any]]:
    """The same of several, keys without a value left out."""
    return [record.model_dump(mode="json", exclude_none=True) for record in records]
