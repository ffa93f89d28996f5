"""Training with several processes, started by torchrun: same archs and weights, shared batches.

The batch of the config is the joint batch. Every process runs the same archs on its own rows,
gradients are averaged, and so every process has the same weights after every step: one of them
writes, and a checkpoint knows nothing of their number. (DistributedDataParallel would give weights
that no arch uses a gradient of zero, and momentum and weight decay would move them.)
"""

import logging
import os
import re
import signal
import threading
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from mobilenas.base.errors import BadInput, Diverged, ProcessesDiffer, ProcessLost, shortened
from mobilenas.base.process import TORCHRUN, end_with_parent, is_one_of_several
from mobilenas.nn.sharing import SharedBatchNorm2d

T = TypeVar("T")
log = logging.getLogger(__name__)
_PATIENCE = timedelta(hours=2)  # for the main process to prepare data; torchrun ends lost ones
_LOST = (
    "a process of the training was lost, or torchrun was told to end: the same command with "
    "--resume continues from the last checkpoint"
)
_ANSWER = timedelta(minutes=10)  # for processes to find each other
_TOLD_SECONDS = 10.0  # after which they say that they wait
_GRACE_SECONDS = 5.0  # for the one process that reports an error


@dataclass(frozen=True)
class Processes:
    """This process among `world` equal ones; by default the only one. Every method that takes
    part in something joint has to be called by all of them, in the same order.
    """

    rank: int = 0
    world: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the one that prints and writes files."""
        return self.rank == 0

    def share(self, count: int) -> npt.NDArray[np.int64]:
        """The rows of a joint batch of `count` images that this process takes.

        A slice of the first half and its mirror image: mixup pairs row i with row count - 1 - i,
        and both stay together. Raises BadInput where not all processes would get equally many.
        """
        if self.world == 1:
            return np.arange(count)
        if count % (2 * self.world):
            raise BadInput(
                f"batch_size {count}: with {self.world} processes it must be a multiple of "
                f"{2 * self.world}, as each takes the same number of pairs of images"
            )
        size = count // (2 * self.world)
        front = np.arange(self.rank * size, (self.rank + 1) * size)
        return np.concatenate([front, count - 1 - front[::-1]])

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is done here can fail in some processes alone: then all of them end.

        The first that failed raises its error, the others end without a word. Nothing joint
        may be done inside.
        """
        if self.world == 1:
            yield
            return
        error = None
        try:
            yield
        except Exception as caught:
            error = caught
        first_failed = torch.tensor([self.world if error is None else self.rank])
        _all_reduce(first_failed, dist.ReduceOp.MIN)
        if first_failed.item() == self.world:
            return
        dist.destroy_process_group()
        if error is not None and first_failed.item() == self.rank:
            raise error
        _end_quietly()

    def main_first(self, make: Callable[[], T], read: Callable[[], T]) -> T:
        """`make()` in the main process and, once that is done, `read()` in the others."""
        with self.together():
            made = make() if self.is_main else None
        with self.together():
            return read() if made is None else made

    def check_same(self, step: int, names: Iterable[str]) -> None:
        """Raise ProcessesDiffer unless all processes are about to train the same in this step.

        names: of what is trained.

        They would wait for each other forever, or average gradients of different weights.
        """
        if self.world == 1:
            return
        digest = zlib.crc32(" ".join([str(step), *names]).encode())
        ends = torch.tensor([digest, -digest])
        _all_reduce(ends, dist.ReduceOp.MAX)
        if ends.sum() != 0:
            raise ProcessesDiffer(
                f"step {step}: the processes are not at the same step with the same archs; start "
                "all of them by the same command, with a run folder that all of them see"
            )

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the processes."""
        if self.world == 1:
            return values
        return _sum(values.detach()) / self.world

    def total(self, count: int) -> int:
        """The sum over the processes."""
        return count if self.world == 1 else int(_sum(torch.tensor(count)).item())

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace the gradients that there are by their mean over the processes."""
        self.average([p.grad for p in parameters if p.grad is not None])

    def average_statistics(self, module: nn.Module) -> None:
        """Replace the running statistics of batch norms by their mean over the processes.

        Those that saw no image in this step stay as they are: their weight has no gradient or,
        where they have no trained weight of their own, they are the same everywhere. So are those
        of `join_batch_norms`.
        """
        if self.world == 1:
            return
        all_norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
        norms = [m for m in all_norms if type(m) in _JOINT and not _is_idle(m)]
        found = [s for norm in norms for s in (norm.running_mean, norm.running_var)]
        statistics = [s for s in found if s is not None]
        # In float64, in which the mean of equal float32 values is that value to the bit.
        means = [s.double() for s in statistics]
        self.average(means)
        for s, mean in zip(statistics, means, strict=True):
            s.copy_(mean)

    def join_batch_norms(self, module: nn.Module) -> None:
        """Let all batch norms of a module normalise by the joint batch, in place."""
        if self.world == 1:
            return
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d) and type(part) in _JOINT:
                part.__class__ = _JOINT[type(part)]  # parameters and state keep their identity

    def average(self, tensors: list[Tensor]) -> None:
        """Replace tensors by their means over the processes."""
        if self.world == 1:
            return
        kinds = defaultdict(list)
        for tensor in tensors:
            kinds[tensor.dtype, tensor.device].append(tensor)
        for same in kinds.values():  # one message in place of hundreds
            mean = self.mean(torch.cat([tensor.reshape(-1) for tensor in same]))
            for tensor, part in zip(same, mean.split([t.numel() for t in same]), strict=True):
                tensor.copy_(part.view(tensor.shape))


SINGLE = Processes()


@contextmanager
def joined() -> Iterator[Processes]:
    """The processes that torchrun started, connected; without torchrun, the single one.

    Tensors on the CPU travel by gloo, those on CUDA devices by NCCL, and the default device of
    each process is its own. Only the main process logs, and reports what all of them meet. Where
    one is lost, the others raise ProcessLost, and one of them says so.
    """
    if not is_one_of_several():
        yield SINGLE
        return
    rank, world, local, _ = (_number(name) for name in (*TORCHRUN[:3], "MASTER_PORT"))
    if rank >= world:
        raise BadInput(f"RANK {rank} must be below WORLD_SIZE {world}: torchrun sets both")
    end_with_parent()  # torchrun ends its processes unless it is killed itself
    if local < torch.accelerator.device_count():
        torch.accelerator.set_device_index(local)
    if rank != 0:
        logging.getLogger("mobilenas").setLevel(logging.ERROR)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    _connect(backend, rank, world)
    before = signal.signal(signal.SIGTERM, _told_to_end)
    try:
        yield Processes(rank, world)
    except (Diverged, ProcessesDiffer):
        dist.destroy_process_group()
        if rank == 0:
            raise
        _end_quietly()
    except ProcessLost:
        if not _is_first_to_end():
            raise SystemExit(1) from None
        raise
    except BaseException:
        _is_first_to_end()
        raise
    signal.signal(signal.SIGTERM, before)
    # Not after an error of one process alone: it could wait for the others.
    dist.destroy_process_group()


def _connect(backend: str, rank: int, world: int) -> None:
    """Raises ProcessLost where the others do not come."""
    address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    told = threading.Timer(
        _TOLD_SECONDS, log.error, ("waiting for %d processes at %s", world, address)
    )
    told.daemon = True
    told.start()
    try:
        store, *_ = next(iter(rendezvous("env://", rank, world, timeout=_ANSWER)))
    except (RuntimeError, ValueError) as error:
        minutes = _ANSWER.total_seconds() / 60
        raise ProcessLost(
            f"not all of {world} processes came to {address} (MASTER_ADDR, MASTER_PORT) within "
            f"{minutes:g} minutes"
        ) from error
    finally:
        told.cancel()
    store.set_timeout(_PATIENCE)
    store = PrefixStore("mobilenas", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=_PATIENCE)


class JointBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose training statistics are those of the joint batch, on any device.

    Every process has equally many images, so the joint mean is the mean of the means, and the
    joint variance the mean of the variances plus the variance of the means. torch's SyncBatchNorm
    is for accelerators only.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x (n, channels, h, w), of the joint batch the rows of this process."""
        if not self.training:
            return super().forward(x)
        world = dist.get_world_size()
        wide = x.to(torch.promote_types(x.dtype, torch.float32))  # under autocast too
        var, mean = torch.var_mean(wide, dim=(0, 2, 3), correction=0)
        all_statistics = mean.new_zeros(world, 2, self.num_features)
        all_statistics[dist.get_rank()] = torch.stack([mean, var])
        means, variances = _JointSum.apply(all_statistics).unbind(1)
        mean = means.mean(0)
        var = variances.mean(0) + means.var(0, correction=0)
        if self.track_running_stats:
            self._track(mean.detach(), var.detach(), world * x.numel() // self.num_features)
        scale = torch.rsqrt(var + self.eps)
        if self.affine:
            scale = self.weight * scale
        normalised = (wide - mean[:, None, None]) * scale[:, None, None]
        if self.affine:
            normalised = normalised + self.bias[:, None, None]
        return normalised.to(x.dtype)

    def _track(self, mean: Tensor, var: Tensor, count: int) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.mul_(1 - share).add_(mean, alpha=share)
        self.running_var.mul_(1 - share).add_(var, alpha=share * count / (count - 1))  # unbiased


class JointSharedBatchNorm2d(SharedBatchNorm2d, JointBatchNorm2d):  # type: ignore[misc]
    """The same with the affine part of a larger one."""


# Batch norms of one process, and what `join_batch_norms` makes of each.
_JOINT: dict[type[nn.BatchNorm2d], type[nn.BatchNorm2d]] = {
    nn.BatchNorm2d: JointBatchNorm2d,
    SharedBatchNorm2d: JointSharedBatchNorm2d,
}


class _JointSum(torch.autograd.Function):
    """Sum over the processes; each one's loss depends on it, so gradients are summed too."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return _sum(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # By itself: what it does to a gradient can be differentiated again.
        summed: Tensor = _JointSum.apply(gradients[0])
        return summed


def _is_idle(norm: nn.BatchNorm2d) -> bool:
    """Whether a batch norm is known to have seen no image in this step, as no gradient came."""
    weight = norm._parameters.get("weight")  # none of its own where it is a part of a larger one
    return weight is not None and weight.requires_grad and weight.grad is None


def _sum(values: Tensor) -> Tensor:
    total = values.clone(memory_format=torch.contiguous_format)
    _all_reduce(total, dist.ReduceOp.SUM)
    return total


def _all_reduce(tensor: Tensor, op: Any) -> None:
    try:
        dist.all_reduce(tensor, op)
    except RuntimeError as error:  # the connection is closed
        raise ProcessLost(_LOST) from error


def _number(name: str) -> int:
    """What torchrun says by a variable of the environment. Raises BadInput where it is none."""
    text = os.environ[name]
    if not re.fullmatch("[0-9]{1,9}", text):
        raise BadInput(f"{name} {shortened(text)!r}: must be a number, as torchrun sets it")
    return int(text)


def _told_to_end(*_: object) -> NoReturn:
    """What torchrun does to the other processes when one has ended."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it has come, and there is a line to print
    raise ProcessLost(_LOST)


def _is_first_to_end() -> bool:
    """Whether no other process was the first to come here, which then says why all of them end."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        wait = timedelta(seconds=1)
        store = dist.TCPStore(address, port, is_master=False, timeout=wait)  # type: ignore[attr-defined]
        return bool(store.add(f"mobilenas/ended/{attempt}", 1) == 1)
    except RuntimeError:  # it has ended too
        return True


def _end_quietly() -> NoReturn:
    """End without a word, but after the process that reports the error: as soon as one has ended,
    torchrun ends all others, this one too.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(_GRACE_SECONDS)
    raise SystemExit(1)
