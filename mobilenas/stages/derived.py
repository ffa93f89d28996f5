"""The network of the arch that a search by gradient ends in, with the weights of its supernet."""

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mobilenas.base.errors import BadInput
from mobilenas.base.randomness import Stream, generator
from mobilenas.nn import AnyNetwork, EdgeCellNetwork, EdgeCellSupernet, Network, Supernet
from mobilenas.nn.saved import NetworkInfo, save_network
from mobilenas.nn.sharing import plain_state
from mobilenas.space import AnyArch
from mobilenas.train.calibrate import fresh_statistics
from mobilenas.train.device import pick_device
from mobilenas.train.images import CALIBRATION_IMAGES, TrainingImages

NETWORK = "network"  # in the run folder
NO_NETWORK = "no network with the weights of the supernet: %s"  # is logged, and why

log = logging.getLogger(__name__)


def store_network(folder: Path, supernet: nn.Module, arch: AnyArch, images: TrainingImages) -> None:
    """Save the network of an arch with a searched supernet's weights, from which training,
    detectors and exports may start; where there is none it is said why.
    """
    device = pick_device(images.config.device)
    order = generator(images.seed, Stream.CALIBRATION).permutation(images.splits.train)
    own = replace(images.splits, calibrate=np.sort(order[:CALIBRATION_IMAGES]))
    batches = replace(images, splits=own).calibration(device)  # one image alone has no variance
    try:
        network = derived_network(supernet.to(device), arch, batches)
    except BadInput as error:
        log.info(NO_NETWORK, error)
        return
    data = images.data
    save_network(
        network, folder, NetworkInfo(data.classes, data.mean, data.std, images.config.eval_crop)
    )


@torch.no_grad()
def derived_network(supernet: nn.Module, arch: AnyArch, batches: Iterable[Tensor]) -> AnyNetwork:
    """The plain network of an arch with the weights of a `Supernet` or `EdgeCellSupernet`, as it is
    trained alone, in eval mode: it computes what the supernet does for the arch. The batch norm
    statistics, which were those of mixtures, are averaged anew over image batches (n, channels, h,
    w), in the supernet too.

    Raises BadInput where there is no such network, as some ops are others while they are searched,
    or the supernet is of another class.
    """
    network: AnyNetwork
    if isinstance(supernet, EdgeCellSupernet):
        network = EdgeCellNetwork(supernet.space, arch)  # type: ignore[arg-type]
        if plain_state(supernet.network(arch)).keys() != network.state_dict().keys():  # type: ignore[arg-type]
            raise BadInput("pools have a batch norm while they are searched, and none in a network")
    elif not isinstance(supernet, Supernet):
        raise BadInput(f"nothing is known of supernets of class {type(supernet).__name__}")
    else:
        network = Network(supernet.space, arch)  # type: ignore[arg-type]
    network = network.to(supernet.classifier.weight)
    with fresh_statistics(supernet) as next_batch:
        for images in batches:
            next_batch()
            supernet(images, arch)
    if isinstance(supernet, EdgeCellSupernet):
        network.load_state_dict(plain_state(supernet.network(arch)))  # type: ignore[arg-type]
    else:
        network.load_from(supernet)  # type: ignore[operator]
    return network.eval()
