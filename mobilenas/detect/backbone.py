"""Networks of a space as backbones of mmdet's detectors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mobilenas.base.errors import BadInput
from mobilenas.base.files import user_path
from mobilenas.detect.checkpoint import is_saved_network
from mobilenas.nn import Network
from mobilenas.nn.saved import load_block_network
from mobilenas.space import Arch, Space, load_space, space_from_dict

# Keys of a space that do not change what its backbones compute.
_ANY = dict.fromkeys(("name", "description", "resolution", "num_classes", "candidates"))


@MODELS.register_module()
class MobileNASBackbone(BaseModule):
    """An arch as a backbone: images (n, 3, h, w) of any size to feature maps of several strides.

    space: a reference as `load_space` takes it, or the plain data of `Space.to_dict`. arch: its
    text form. Without them the saved network that init_cfg names gives both.
    out_indices: which rows of `feature_info` (one a resolution, first is 0) are put out, in any
    order; the largest map comes first.
    frozen_stages: -1 trains everything, 0 freezes the stem, i the stem and what the first i rows
    need. What is frozen gets no gradient and keeps its batch norm statistics. norm_eval: every
    batch norm keeps its statistics.
    init_cfg: `dict(type="Pretrained", checkpoint=PATH)` with the folder or the file of a saved
    network, or what else mmengine takes.

    out_channels, out_strides: of the maps put out.
    Raises BadInput for what does not fit the space, and when a saved network is another arch.
    """

    def __init__(
        self,
        space: str | dict[str, Any] | None = None,
        arch: str | None = None,
        out_indices: Sequence[int] = (1, 2, 3, 4),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.network = Network(*_resolve(space, arch, self._saved_network()), num_classes=0)
        info = self.network.feature_info
        # Of any order: the maps come as the network makes them, and so as of mmdet's own backbones.
        self.out_indices = sorted(set(self.network.prune_intermediate_layers(out_indices)))
        # mmdet's NumClassCheckHook would take it for the number of classes of a head.
        del self.network.num_classes
        self.out_channels = [info[row]["num_chs"] for row in self.out_indices]
        self.out_strides = [info[row]["reduction"] for row in self.out_indices]
        if frozen_stages not in range(-1, len(info) + 1):
            raise BadInput(f"frozen_stages {frozen_stages}: must be -1 to {len(info)}")
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        for part in self._frozen():
            part.requires_grad_(False)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """The feature maps, (n, out_channels[i], h / out_strides[i], w / out_strides[i])."""
        maps = self.network.forward_intermediates(x, self.out_indices, intermediates_only=True)
        return tuple(maps)  # type: ignore[arg-type]

    def train(self, mode: bool = True) -> "MobileNASBackbone":
        """As of any module, but what is frozen, and with norm_eval every batch norm, stays."""
        super().train(mode)
        for part in self._frozen():
            part.eval()
        for part in self.modules() if self.norm_eval else ():
            if isinstance(part, _BatchNorm):
                part.eval()
        return self

    def init_weights(self) -> None:
        """Load the weights that init_cfg names; a saved network has to be of this space and arch.

        Without init_cfg the weights stay as the constructor drew them.
        """
        saved = self._saved_network()
        if saved is None:
            super().init_weights()
            return
        source, _ = load_block_network(saved)
        if source.arch != self.network.arch or _computed(source.space) != _computed(
            self.network.space
        ):
            raise BadInput(
                f"{saved} is {source.arch} of {source.space.name}; the backbone is "
                f"{self.network.arch} of {self.network.space.name}"
            )
        own = self.network.state_dict()
        self.network.load_state_dict({k: v for k, v in source.state_dict().items() if k in own})
        self.is_init = True

    def _saved_network(self) -> Path | None:
        cfg = self.init_cfg
        if not isinstance(cfg, dict) or cfg.get("type") != "Pretrained":
            return None
        path = user_path(str(cfg["checkpoint"]))
        return path if is_saved_network(str(path)) else None

    def _frozen(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        stages = list(range(self.frozen_stages))
        last = self.network.block_ends(stages)[1] if stages else 0
        return [self.network.stem, *self.network.blocks[:last]]


def _resolve(
    space: str | dict[str, Any] | None, arch: str | None, saved: Path | None
) -> tuple[Space, Arch]:
    if space is None and arch is None and saved is not None:
        network, _ = load_block_network(saved)
        return network.space, network.arch
    if space is None or arch is None:
        raise BadInput(
            "MobileNASBackbone needs space and arch, or init_cfg with a saved network that has both"
        )
    built = space_from_dict(dict(space)) if isinstance(space, dict) else load_space(space)
    return built, built.parse(arch)


def _computed(space: Space) -> dict[str, Any]:
    return space.to_dict() | _ANY
