"""Accuracy of archs through the weights of a trained supernet."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mobilenas.base.errors import BadInput
from mobilenas.base.process import release_memory
from mobilenas.cost import CostModel
from mobilenas.cost.model import flops_and_params
from mobilenas.data import Batch, Part
from mobilenas.data.splits import Indices
from mobilenas.evaluate.trie import accuracies
from mobilenas.evaluate.zero_cost import naswot
from mobilenas.nn import Network, Supernet, fold_batch_norm
from mobilenas.nn.cells import fresh_network
from mobilenas.space import AnyArch, AnySpace, Arch, CellSpace
from mobilenas.train.calibrate import accuracy, inherit, recalibrate
from mobilenas.train.checkpoint import fingerprint
from mobilenas.train.device import pick_device
from mobilenas.train.images import data_place
from mobilenas.train.supernets import SupernetRun

_ZERO_COST_IMAGES = 64


class SupernetEvaluator:
    """`evaluate(archs)`: top-1 in 0..1 of each on the validation images with inherited weights.

    The batch norm statistics are recalibrated on the calibration images first. The supernet itself
    is left as it is, so neither the order of evaluations nor their company matters.
    """

    def __init__(self, run: SupernetRun) -> None:
        self.run = run
        self.supernet = run.load_supernet().to(pick_device(run.settings.config.device)).eval()

    def __call__(self, archs: Sequence[AnyArch], *, recalibrated: bool = True) -> list[float]:
        """Top-1, with recalibrated or, for comparison, the supernet's own statistics."""
        release_memory()  # that training, or archs of other statistics, have left
        data, splits = self.run.images.data, self.run.images.splits
        return accuracies(
            self.supernet,
            archs,
            calibration=self._calibration if recalibrated else None,
            validation=lambda: self._batches(data.train, splits.validate),
        )

    def test_accuracy(self, arch: Arch) -> float:
        """Top-1 after recalibration on the test images: to report, never to select."""
        data = self.run.images.data
        if data.test is None:
            raise BadInput(f"{data.name} has no test images")
        batches = self._batches(data.test, np.arange(len(data.test)))
        return accuracy(fold_batch_norm(self.network(arch)), batches)

    def network(self, arch: Arch) -> Network:
        """The plain network of an arch with inherited weights, recalibrated, in eval mode."""
        assert isinstance(self.supernet, Supernet), "spaces of cells are ranked, not exported"
        network = inherit(self.supernet, arch)
        recalibrate(network, self._calibration())
        return network

    def untrained(self, arch: AnyArch, seed: int) -> nn.Module:
        """The network of an arch with weights from a seed, for scores that need no training."""
        space = self.run.space
        if isinstance(space, CellSpace):
            network: nn.Module = fresh_network(space, arch, seed)  # type: ignore[arg-type]
        else:
            generator = torch.Generator().manual_seed(seed)
            network = Network(space, arch, generator=generator)  # type: ignore[arg-type]
        return network.to(next(self.supernet.parameters()).device)

    def naswot(self, archs: Sequence[AnyArch], seed: int) -> list[float]:
        """The NASWOT score of each, untrained with weights from a seed."""
        return [naswot(self.untrained(arch, seed), self.zero_cost_images) for arch in archs]

    @cached_property
    def zero_cost_images(self) -> Tensor:
        """The images (64, channels, h, w) of zero-cost scores, of those for recalibration.

        Fewer where some are equal, as real data may have them: naswot is undefined for these.
        """
        images: list[Tensor] = []
        for batch in self._calibration():
            images += batch
            if len(images) >= _ZERO_COST_IMAGES:
                break
        return torch.unique(torch.stack(images[:_ZERO_COST_IMAGES]), dim=0)

    @property
    def place(self) -> tuple[str, str | None]:
        """The paths of the supernet and of its images (None: as its folder says), by which another
        process opens the same.
        """
        folder = self.run.folder
        data = data_place(folder) if "data" in folder.parents else None
        return str(folder.path.resolve()), data

    def describe(self) -> dict[str, Any]:
        """What is measured, as plain data: enough to tell two evaluators apart."""
        return {
            "seed": self.run.settings.seed,
            "data": self.run.settings.data,
            "weights": fingerprint(self.supernet),
            "validation_images": len(self.run.images.splits.validate),
            "calibration_images": len(self.run.images.splits.calibrate),
        }

    def _calibration(self) -> Iterator[Tensor]:
        return self.run.images.calibration(next(self.supernet.parameters()).device)

    def _batches(self, part: Part, indices: Indices) -> Iterator[Batch]:
        device = next(self.supernet.parameters()).device
        return self.run.images.evaluation(part, device, indices)


def anchor_archs(space: AnySpace) -> dict[str, AnyArch]:
    """The archs of smallest and largest FLOPs, and one of median FLOPs: of 1,001 drawn archs, or
    of the distinct cells.
    """
    if isinstance(space, CellSpace):
        cells = space.distinct()
        order = np.argsort(flops_and_params(space, cells)["flops"], kind="stable")
        places = {"smallest": 0, "median": len(cells) // 2, "largest": -1}
        return {name: cells[order[place]] for name, place in places.items()}
    cost_model = CostModel(space)
    drawn = space.sample_genes(1001, np.random.default_rng(0))
    median = drawn[np.argsort(cost_model.flops_batch(drawn), kind="stable")[500]]
    return {
        "smallest": cost_model.smallest("flops"),
        "median": space.decode(median),
        "largest": cost_model.largest("flops"),
    }


def check_anchors(run: SupernetRun) -> list[dict[str, Any]]:
    """Validation accuracy of the anchor archs before and after recalibration, as plain rows."""
    evaluator = SupernetEvaluator(run)
    anchors = anchor_archs(run.space)
    archs = list(anchors.values())
    costs = flops_and_params(run.space, archs)
    before, after = evaluator(archs, recalibrated=False), evaluator(archs)
    return [
        {
            "name": name,
            "arch": str(arch),
            **{cost: values[i].item() for cost, values in costs.items()},
            "accuracy_inherited_bn": before[i],
            "accuracy_recalibrated": after[i],
        }
        for i, (name, arch) in enumerate(anchors.items())
    ]
