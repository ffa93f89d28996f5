"""What an arch is worth by a ground truth of its whole space, beside the trivial rivals."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobilenas.base.errors import BadInput
from mobilenas.evaluate.truth import Floats, Truth
from mobilenas.space import AnyArch


@dataclass(frozen=True)
class Standing:
    """Accuracies are in 0..1.

    place: 1 for the best of `total` archs; equal ones share the first place. regret: by cost, how
    much better the best arch is that costs at most as much. random_mean, random_sd: of archs that
    are drawn. largest: the accuracy of the arch with the most params.
    """

    accuracy: float
    place: int
    total: int
    regret: dict[str, float]
    random_mean: float
    random_sd: float
    largest: float


def standing(
    truth: Truth,
    arch: AnyArch,
    *,
    costs: Mapping[str, Floats] | None = None,
    drawn: NDArray[np.bool_] | None = None,
) -> Standing:
    """Where an arch stands among all archs of a truth.

    arch: canonical. costs: (archs,) each, beside the truth's own FLOPs and params. drawn: (archs,)
    which of them a random arch may be, all by default. Raises BadInput for an arch without truth.
    """
    if arch not in truth.archs:
        raise BadInput(f"{truth.source} has no accuracy of {arch}")
    own, accuracy = truth.archs.index(arch), truth.accuracy
    regret = {
        cost: float(accuracy[values <= values[own]].max() - accuracy[own])
        for cost, values in {**truth.costs, **(costs or {})}.items()
    }
    random = accuracy if drawn is None else accuracy[drawn]
    return Standing(
        accuracy=float(accuracy[own]),
        place=1 + int((accuracy > accuracy[own]).sum()),
        total=len(accuracy),
        regret=regret,
        random_mean=float(random.mean()),
        random_sd=float(random.std()),
        largest=float(accuracy[truth.costs["params"].argmax()]),
    )
