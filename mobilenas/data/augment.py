"""Random changes of training images: what a config can ask for, and timm's transforms for it."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from mobilenas.base.errors import BadInput
from mobilenas.data.images import Channels

Transform = Callable[[Image.Image], Tensor]

CROPS = ("pad", "resize")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "random")
# timm ignores sections without a number, and unknown sets of operations.
_POLICY = re.compile(
    r"rand(-[a-z]+[0-9.]+|-t(weights|3aw?))*|(augmix|originalr?|v0r?|3a)(-[a-z]+[0-9.]+)*"
)


@dataclass(frozen=True)
class Augment:
    """Random changes of a training image: crop, flip, policy, colours, erasing, cutout.

    crop: "pad" shifts the image: black pixels are added on each side before a crop back to its
    size; "resize" takes a window of random area and aspect ratio 3/4 to 4/3 (Szegedy et al. 2015).
    crop_padding: pixels on each side, of "pad".
    flip: left to right, with probability one half.
    cutout: side in pixels of a square, centred anywhere in the image, that is set to the mean.
    min_area: smallest share of the image that "resize" shows.
    auto_augment: a policy in timm's notation, `rand-m9-mstd0.5-inc1` (timm.data.auto_augment).
    color_jitter: strength of random changes of brightness, contrast and saturation.
    random_erasing: probability that a rectangle is replaced by noise (Zhong et al. 2017).
    interpolation: of "resize" and of the operations of `auto_augment`.

    0, False or None turns a change off. Raises BadInput where a value is out of its range.
    """

    crop_padding: int = 4
    flip: bool = True
    cutout: int = 16
    crop: str = "pad"
    min_area: float = 0.08
    auto_augment: str | None = None
    color_jitter: float = 0.0
    random_erasing: float = 0.0
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        for name in ("crop_padding", "cutout"):
            if getattr(self, name) < 0:
                raise BadInput(f"{name} {getattr(self, name)}: must be 0 or more pixels")
        for name, among in (("crop", CROPS), ("interpolation", INTERPOLATIONS)):
            if getattr(self, name) not in among:
                raise BadInput(f"{name} {getattr(self, name)}: choose one of {', '.join(among)}")
        if not 0 < self.min_area <= 1:
            raise BadInput(f"min_area {self.min_area}: must be more than 0, at most 1")
        for name in ("color_jitter", "random_erasing"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadInput(f"{name} {getattr(self, name)}: must be 0 to 1")
        if self.auto_augment is not None:
            _check_policy(self.auto_augment)

    @property
    def in_memory(self) -> bool:
        """Whether only what `TrainBatches` does to whole batches is asked for."""
        return self.crop == "pad" and not (
            self.auto_augment or self.color_jitter or self.random_erasing
        )

    def transform(self, resolution: int, mean: Channels, std: Channels) -> Transform:
        """RGB image of any size -> (3, resolution, resolution), normalised, float32.

        It draws from the global generators of random, numpy and torch (base.randomness). With
        crop "pad" the short side is first scaled to `resolution` and the long side cropped.
        """
        from timm.data.transforms_factory import transforms_imagenet_train  # slow to import
        from torchvision import transforms

        composed = transforms_imagenet_train(
            resolution,
            scale=(self.min_area, 1.0),
            hflip=0.5 * self.flip,
            color_jitter=self.color_jitter or None,
            force_color_jitter=True,  # also beside auto_augment, where timm leaves it out
            auto_augment=self.auto_augment,
            interpolation=self.interpolation,
            mean=mean,
            std=std,
            re_prob=self.random_erasing,
            re_mode="pixel",
        )
        for change in composed.transforms:
            _mend_posterize(change)
        if self.crop == "pad":
            centred = [transforms.Resize(resolution), transforms.CenterCrop(resolution)]
            shifted = transforms.RandomCrop(resolution, padding=self.crop_padding)
            composed.transforms[0] = transforms.Compose([*centred, shifted])
        if self.cutout:
            composed.transforms.append(_Cutout(self.cutout))
        return composed


@dataclass(frozen=True)
class _Cutout:
    """A square of 0 in a normalised image (DeVries and Taylor 2017), as `TrainBatches` cuts it."""

    side: int

    def __call__(self, image: Tensor) -> Tensor:
        corner = [np.random.randint(size) - self.side // 2 for size in image.shape[1:]]  # noqa: NPY002
        lines, columns = (slice(max(start, 0), max(start + self.side, 0)) for start in corner)
        image[:, lines, columns] = 0
        return image


def _mend_posterize(policy: Any) -> None:
    """Let the operations of a policy of timm keep 0 bits, which Pillow 13 refuses."""
    # RandAugment and AugMix have a list of operations, AutoAugment lists of them.
    for operation in chain(getattr(policy, "ops", []), *getattr(policy, "policy", [])):
        if operation.name.startswith("Posterize"):
            operation.aug_fn = _posterize


def _posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    if bits < 1:
        return Image.new("RGB", image.size)  # black, as timm's on earlier versions of Pillow
    return ImageOps.posterize(image, min(bits, 8))


def _check_policy(text: str) -> None:
    from timm.data.transforms_factory import transforms_imagenet_train

    try:
        if not _POLICY.fullmatch(text):
            raise ValueError("unknown policy or section")
        transforms_imagenet_train(auto_augment=text)
    except (AssertionError, KeyError, ValueError) as error:
        raise BadInput(
            f"auto_augment {text!r}: must be a policy of timm, such as rand-m9-mstd0.5-inc1 "
            f"({error})"
        ) from error
