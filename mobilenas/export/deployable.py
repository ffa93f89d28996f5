"""The module behind an export, and images as its file takes them."""

import copy
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mobilenas.data import Images
from mobilenas.nn import AnyNetwork, fold_for_export
from mobilenas.nn.saved import Channels, NetworkInfo
from mobilenas.runtimes.base import Choice, Feed, Floats, Form, Inputs

Pixels = npt.NDArray[np.uint8]  # (N, R, R, 3), RGB


@dataclass(frozen=True)
class Calibration:
    """What an int8 export needs: images as the network is evaluated on them.

    ranges: training images (N, R, R, 3), which the ranges of the activations are taken from.
    choice: others, by which one of several schemes is chosen.
    """

    ranges: Pixels
    choice: Images

    def feed(self, info: NetworkInfo, preprocess: bool) -> Feed:
        """The same as a file takes them."""
        chosen = Choice(fed(self.choice.pixels, info, preprocess), self.choice.labels)
        return Feed(fed(self.ranges, info, preprocess), chosen)


class Preprocessed(nn.Module):
    """A network behind its normalisation: uint8 images (N, R, R, 3) to logits."""

    centre: Tensor
    spread: Tensor

    def __init__(self, network: nn.Module, mean: Channels, std: Channels) -> None:
        super().__init__()
        self.network = network
        for name, values in (("centre", mean), ("spread", std)):
            self.register_buffer(name, 255 * torch.tensor(values).view(3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        pixels = image.permute(0, 3, 1, 2).float()
        logits: Tensor = self.network((pixels - self.centre) / self.spread)
        return logits


def deployable(network: AnyNetwork, info: NetworkInfo, form: Form) -> tuple[nn.Module, Tensor]:
    """A copy on the CPU as it is deployed, and zeros in the shape of its input.

    Batch norms are folded, preprocessing is as `form` has it.
    """
    folded = fold_for_export(copy.deepcopy(network).cpu().float())
    size, channels = network.space.resolution, network.space.spec.in_channels
    image = torch.zeros(form.batch or 1, channels, size, size)
    if form.preprocess:
        whole = Preprocessed(folded, info.mean, info.std).eval()
        return whole, image.permute(0, 2, 3, 1).to(torch.uint8).contiguous()
    return folded, image


def fed(images: Pixels, info: NetworkInfo, preprocess: bool) -> Inputs:
    """Images as a file takes them: as they are, or normalised."""
    return images if preprocess else normalise(images, info.mean, info.std)


def normalise(images: Pixels, mean: Channels, std: Channels) -> Floats:
    """uint8 (N, H, W, 3) to float32 (N, 3, H, W), zero mean and unit deviation per channel."""
    centre, spread = np.array(mean, dtype=np.float32), np.array(std, dtype=np.float32)
    pixels = images.astype(np.float32) / 255
    return np.ascontiguousarray(((pixels - centre) / spread).transpose(0, 3, 1, 2))
