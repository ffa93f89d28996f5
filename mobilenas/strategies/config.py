"""How a search by gradient is made; configs/strategies/*.yaml hold presets."""

from typing import Annotated, Literal

from pydantic import Field

from mobilenas.train.config import AboveZero, Duration, NotNegative, Share, TrainingConfig

Repeats = Annotated[int, Field(ge=1, le=100_000)]  # of a part of a step; of drawn archs


class SearchConfig(TrainingConfig):
    """What every strategy has, beside the training of the weights.

    epochs: passes over the training images, one batch a step. The architecture is learnt from the
    images that are held out, half of all where validate_images is not set. weights_first: share of
    the steps that train weights alone, at probabilities as they start.

    arch_lr, arch_betas, arch_weight_decay: of Adam over the architecture parameters, which start
    from N(0, 1e-3). What they can move is about arch_lr times the number of steps, so a shorter
    search needs a larger rate.

    cost_form, cost_weight, cost_power: how expected costs enter the loss where there are limits
    (`ExpectedCost`); by default they do not, as the most probable arch of a mixture that meets a
    limit is far cheaper than the limit. bn: as of a supernet.
    """

    epochs: Duration = 50
    weights_first: Share = 0.0
    arch_lr: AboveZero = 3e-4
    arch_betas: tuple[Share, Share] = (0.5, 0.999)
    arch_weight_decay: NotNegative = 1e-3
    cost_form: Literal["add", "power"] = "add"
    cost_weight: NotNegative = 0.0
    cost_power: AboveZero = 0.3
    bn: Literal["shadow", "shared"] = "shadow"

    def held_out(self, count: int) -> int:
        """Half of the images: the architecture is learnt from them."""
        return self.validate_images or count // 2
