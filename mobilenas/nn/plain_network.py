"""The plain network of an arch, of blocks or of cells whose edges have ops."""

import torch

from mobilenas.base.errors import BadInput
from mobilenas.nn.edge_cells import EdgeCellNetwork
from mobilenas.nn.network import Network
from mobilenas.space import AnyArch, EdgeCellSpace, Genotype, NetworkSpace

AnyNetwork = Network | EdgeCellNetwork


def plain_network(
    space: NetworkSpace,
    arch: AnyArch,
    *,
    drop_rate: float | None = None,
    drop_path_rate: float = 0.0,
    generator: torch.Generator | None = None,
) -> AnyNetwork:
    """Fresh weights; arguments as of `Network`. Raises BadInput for an arch of another space, and
    for a drop_path_rate of cells.
    """
    if isinstance(space, EdgeCellSpace):
        if drop_path_rate:
            raise BadInput(f"drop_path_rate {drop_path_rate:g}: networks of cells have none")
        assert isinstance(arch, Genotype)
        return EdgeCellNetwork(space, arch, drop_rate=drop_rate or 0.0, generator=generator)
    return Network(
        space,
        arch,  # type: ignore[arg-type]
        drop_rate=drop_rate,
        drop_path_rate=drop_path_rate,
        generator=generator,
    )
