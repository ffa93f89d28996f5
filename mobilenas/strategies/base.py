"""What a strategy is: how a supernet's weights are trained."""

from collections.abc import Sequence
from typing import Protocol

from mobilenas.space import AnyArch


class Strategy(Protocol):
    """Which archs a step of a supernet trains, as a function of the step's number alone.

    A strategy draws from generators keyed by (seed, step), so a resumed run needs nothing saved.
    passes_per_step: archs a step, each trained on the same batch. steps_per_superstep: training
    ends after a whole number of these, when everything was used equally often.
    """

    passes_per_step: int
    steps_per_superstep: int

    def archs(self, step: int) -> Sequence[AnyArch]:
        """The archs whose gradients are summed in that optimizer step."""
