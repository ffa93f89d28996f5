"""Functions of tests in two processes, as torchrun would start them."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def in_two_processes(work: Callable[[], Any], folder: Path) -> list[Any]:
    """What a function gives in each, tensors and plain values. folder: an empty one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_work, (work, port, folder), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def _work(rank: int, work: Callable[[], Any], port: int, folder: Path) -> None:
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in names.items()}
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    torch.set_num_threads(1)
    torch.save(work(), folder / f"{rank}.pt")
