"""The plain module of one arch, with the verbs of a timm model."""

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mobilenas.base.errors import BadInput
from mobilenas.nn.blocks import InvertedBottleneck, build, conv_head, init_weights, is_watched, stem
from mobilenas.nn.choice_block import ChoiceBlock
from mobilenas.nn.kernels import may_take
from mobilenas.nn.pool import global_average
from mobilenas.nn.supernet import Supernet
from mobilenas.space import Arch, Space


class Network(nn.Module):
    """One arch of a space: images (n, in_chans, h, w) to logits (n, num_classes).

    num_classes, in_chans, drop_rate: the space's own if None; num_classes 0 takes the classifier
    away. drop_rate: of the dropout before the classifier. drop_path_rate: stochastic depth (Huang
    et al. 2016) of the residual blocks, growing linearly from 0 at the first block towards this
    rate, as timm has it. global_pool: `avg`, or empty for none, which needs num_classes 0. device,
    dtype: of parameters and buffers, torch's defaults if None.

    feature_info: the last layer of each resolution, as timm lists it (num_chs, reduction, module).
    stage_ends: after how many blocks each of these rows is there. Raises BadInput when the arch is
    not of the space, and for another global_pool.
    """

    def __init__(
        self,
        space: Space,
        arch: Arch,
        *,
        num_classes: int | None = None,
        in_chans: int | None = None,
        drop_rate: float | None = None,
        drop_path_rate: float = 0.0,
        global_pool: str = "avg",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        space.encode(arch)
        _check_arguments(num_classes=num_classes, in_chans=in_chans, drop_path_rate=drop_path_rate)
        self.space = space
        self.arch = arch
        self.num_classes = space.num_classes if num_classes is None else num_classes
        self.in_chans = space.spec.in_channels if in_chans is None else in_chans
        self.num_features = self.head_hidden_size = space.head_channels
        self.drop_rate = space.spec.head.dropout if drop_rate is None else drop_rate
        self.drop_path_rate = drop_path_rate
        self.global_pool = global_pool
        self.grad_checkpointing = False
        self.feature_info = feature_info(space)
        names = [str(row["module"]) for row in self.feature_info]
        self.stage_ends = [int(n[7:]) + 1 if n.startswith("blocks.") else 0 for n in names]
        depth = len(space.layers)
        with nullcontext() if device is None else torch.device(device):
            self.stem = stem(space, self.in_chans)
            self.blocks = nn.Sequential(
                *(
                    build(block, candidate, drop_path_rate * i / depth)
                    for i, (block, candidate) in enumerate(
                        zip(space.layers, space.candidates_of(arch), strict=True)
                    )
                )
            )
            self.conv_head: nn.Module = conv_head(space)
            self.dropout = nn.Dropout(self.drop_rate)
            self.classifier = self._linear(self.num_classes, global_pool)
        self.init_weights(generator)
        self.to(dtype=dtype)

    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Fresh weights and batch norm statistics, as after `to_empty`."""
        init_weights(self, generator)

    def forward_features(self, x: Tensor) -> Tensor:
        """Feature map (n, num_features, h, w) after the 1x1 head convolution."""
        y = None if torch.jit.is_scripting() else self._in_one(x)  # type: ignore[attr-defined]
        if y is None:
            x = self.stem(x)
            if self.grad_checkpointing and not torch.jit.is_scripting():  # type: ignore[attr-defined]
                y = _checkpointed(self.blocks, x)
            else:
                y = self.blocks(x)
        return self.conv_head(y)

    @torch.jit.unused
    def _in_one(self, x: Tensor) -> Tensor | None:
        """What blocks make of images where the stem and the first one are one function."""
        first = next(iter(self.blocks), None)  # there may be none left
        if not isinstance(first, InvertedBottleneck) or self.grad_checkpointing:
            return None
        if not may_take(x) or is_watched(self.blocks):
            return None
        y = first.after(self.stem, x)
        return None if y is None else self.blocks[1:](y)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits of a feature map; pre_logits gives the pooled features (n, num_features)."""
        if self.global_pool:
            x = global_average(x)
        x = self.dropout(x)
        return x if pre_logits else self.classifier(x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        extra_blocks: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """What `forward_features` gives, and feature maps of `feature_info` on the way.

        indices: which rows, the last ones if an int, all if None. norm: without effect, as there is
        no last norm. stop_early: run no block after the last row asked for; the feature map is then
        that row's. intermediates_only: the list of maps alone. Raises BadInput for rows that are
        not there, for another output_fmt than NCHW, and for extra_blocks, which timm's MobileNetV3
        has: rows are those of `feature_info`.
        """
        if output_fmt != "NCHW":
            raise BadInput(f"output_fmt {output_fmt}: feature maps are NCHW")
        _refuse(extra_blocks)
        taken, last = self.block_ends(indices)
        x = self.stem(x)
        intermediates = [x] if 0 in taken else []
        for end, block in enumerate(self.blocks, start=1):
            # Neither a slice of the blocks nor a break: TorchScript has none.
            if not stop_early or end <= last:
                if self.grad_checkpointing and not torch.jit.is_scripting():  # type: ignore[attr-defined]
                    x = checkpoint(block, x, use_reentrant=False)
                else:
                    x = block(x)
                if end in taken:
                    intermediates.append(x)
        if intermediates_only:
            return intermediates
        whole = not stop_early or last == len(self.blocks)
        return (self.conv_head(x) if whole else x), intermediates

    def prune_intermediate_layers(
        self,
        indices: int | Sequence[int] | None = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
        extra_blocks: bool = False,
    ) -> list[int]:
        """Drop what the feature maps of these rows of `feature_info` do not need: later blocks, the
        head convolution (if blocks or the head go) and the classifier (prune_head, or with the head
        convolution). Returns the rows, counted from the first. Raises BadInput as
        `forward_intermediates` does.
        """
        _refuse(extra_blocks)
        if indices is not None and not isinstance(indices, int):
            indices = list(indices)
        rows = chosen_rows(len(self.stage_ends), indices)
        _, last = self.block_ends(rows)
        if prune_norm or prune_head or last < len(self.blocks):
            self.blocks = self.blocks[:last]
            self.conv_head = nn.Identity()
            self.num_features = self.head_hidden_size = self.feature_info[max(rows)]["num_chs"]
            self.reset_classifier(0, "")
        return rows

    def get_classifier(self) -> nn.Module:
        """The last layer: linear, or identity when num_classes is 0."""
        return self.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh last layer for another number of classes; 0 takes it away.

        global_pool: another pooling, as in the constructor; None keeps it, but for a classifier
        where there was none, which brings `avg` back. Nothing is changed where BadInput is raised.
        """
        if global_pool is None:
            global_pool = self.global_pool or ("avg" if num_classes else "")
        weight = next(self.parameters())
        classifier = self._linear(num_classes, global_pool).to(weight.device, weight.dtype)
        init_weights(classifier)
        self.classifier = classifier.train(self.training)
        self.num_classes = num_classes
        self.global_pool = global_pool

    def group_matcher(self, coarse: bool = False) -> dict[str, object]:
        """Patterns that group parameters by depth, for timm's layer-wise learning rates: a group a
        block; coarse: a group a resolution.
        """
        ends = [0, *(end for end in self.block_ends(None)[0] if end)]
        stages = [
            (rf"^blocks\.(?:{'|'.join(map(str, range(a, b)))})\.", (stage,))
            for stage, (a, b) in enumerate(pairwise(ends))
        ]
        blocks = stages if coarse else [(r"^blocks\.(\d+)", None)]
        return {"stem": r"^stem", "blocks": [*blocks, (r"^conv_head", (99999,))]}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations. Running
        statistics of batch norms then move twice a step.
        """
        self.grad_checkpointing = enable

    def load_from(self, supernet: Supernet) -> "Network":
        """Inherit the weights and batch norm statistics of a supernet; returns itself."""
        for name in ("stem", "conv_head", "classifier"):
            getattr(self, name).load_state_dict(getattr(supernet, name).state_dict())
        candidates = self.space.candidates_of(self.arch)
        for choice, built, candidate in zip(supernet.blocks, self.blocks, candidates, strict=True):
            assert isinstance(choice, ChoiceBlock)
            choice.copy_to(built, candidate)
        return self

    def block_ends(self, indices: int | list[int] | None) -> tuple[list[int], int]:
        """After how many blocks each of these rows of feature_info is there, and the last of it."""
        ends = [self.stage_ends[row] for row in chosen_rows(len(self.stage_ends), indices)]
        return ends, max(ends)

    def _linear(self, num_classes: int, global_pool: str) -> nn.Module:
        if global_pool not in ("avg", ""):
            raise BadInput(f"global_pool {global_pool!r}: it is 'avg', or '' for none")
        if num_classes == 0:
            return nn.Identity()
        if not global_pool:
            raise BadInput("global_pool '' leaves a feature map: it needs num_classes 0")
        return nn.Linear(self.num_features, num_classes)


def _check_arguments(num_classes: int | None, in_chans: int | None, drop_path_rate: float) -> None:
    if num_classes is not None and num_classes < 0:
        raise BadInput(f"num_classes {num_classes}: it must be 0 or more")
    if in_chans is not None and in_chans < 1:
        raise BadInput(f"in_chans {in_chans}: it must be 1 or more")
    if not 0 <= drop_path_rate < 1:
        raise BadInput(f"drop_path_rate {drop_path_rate:g}: it must be in 0 to below 1")


def feature_info(space: Space) -> list[dict[str, Any]]:
    """The last layer of each resolution of the networks of a space, as timm lists it."""
    reduction: int = space.spec.stem.stride
    rows: dict[int, dict[str, Any]] = {}

    def add(num_chs: int, module: str) -> None:
        rows[reduction] = {"num_chs": num_chs, "reduction": reduction, "module": module}

    if reduction > 1:
        add(space.stem_channels, "stem.act")  # its last layer: timm's lists take a sequence apart
    for number, block in enumerate(space.layers):
        reduction *= block.stride
        add(block.out_channels, f"blocks.{number}")
    return list(rows.values())


def chosen_rows(count: int, indices: int | list[int] | None) -> list[int]:
    """Which of `count` feature maps are meant, from 0: all (None), the last ones (int) or these.

    Raises BadInput for none, and for one that is not there.
    """
    if indices is None:
        rows = list(range(count))
    elif isinstance(indices, int):
        rows = list(range(-indices, 0))
    else:
        rows = list(indices)
    # A loop, and a message of plain parts: TorchScript compiles this.
    wrong = len(rows) == 0
    for row in rows:
        wrong = wrong or row < -count or row >= count
    if wrong:
        raise BadInput(f"indices {rows}: there are {count} feature maps, 0 to {count - 1}")
    return [row % count for row in rows]


def _refuse(extra_blocks: bool) -> None:
    if extra_blocks:
        raise BadInput("extra_blocks: feature maps are those of feature_info, one a resolution")


def _checkpointed(blocks: nn.Sequential, x: Tensor) -> Tensor:
    for block in blocks:
        x = checkpoint(block, x, use_reentrant=False)
    return x
