"""ExecuTorch files compute what torch does, all of it in XNNPACK but the pooling."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mobilenas.latency.graphs import Head
from mobilenas.nn import fold_batch_norm
from mobilenas.nn.blocks import build
from mobilenas.runtimes.base import MIN_RUNS, Form
from mobilenas.space import load_space

pytest.importorskip("executorch", reason="executorch is not installed (extra `mobile`)")

from mobilenas.runtimes.executorch import ExecuTorch

WIDE = "s2:width=0.25,resolution=64"
SQUEEZED = "fairnas:width=0.25,resolution=64,squeeze_excite=0.5,activation=hard_swish"


def write(module: nn.Module, image: Tensor, path: Path) -> None:
    converted = ExecuTorch().convert(module, image, Form(batch=len(image)), None)
    path.write_bytes(converted.files[".pte"])


def run(path: Path, image: Tensor) -> Tensor:
    """The output of a file, by the library itself."""
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(path).load_method("forward")
    (output,) = method.execute([image])
    return output


def left_to_executorch(path: Path) -> list[str]:
    """The operators that XNNPACK has not taken."""
    from executorch.exir._serialize._program import deserialize_pte_binary

    (plan,) = deserialize_pte_binary(path.read_bytes()).program.execution_plan
    assert {delegate.id for delegate in plan.delegates} == {"XnnpackBackend"}
    return [operator.name for operator in plan.operators]


@pytest.mark.parametrize(
    ("reference", "candidate", "folded"),
    [(WIDE, "e6k3579", True), (WIDE, "e3k9", False), (SQUEEZED, "e3k7", True)],
)
def test_block_computes_what_torch_does(
    reference: str,
    candidate: str,
    folded: bool,
    unlike_fresh: Callable[..., nn.Module],
    tmp_path: Path,
) -> None:
    space = load_space(reference)
    block = space.blocks[3]
    (chosen,) = [c for c in block.candidates if str(c) == candidate]
    module = unlike_fresh(build(block, chosen)).eval()
    image = torch.randn(1, block.in_channels, block.in_size, block.in_size)
    with torch.inference_mode():
        expected = module(image)
    path = tmp_path / "block.pte"
    write(fold_batch_norm(module) if folded else module, image, path)
    torch.testing.assert_close(run(path, image), expected, atol=1e-4, rtol=1e-4)
    assert left_to_executorch(path) == []
    with torch.inference_mode():
        torch.testing.assert_close(module(image), expected, atol=0, rtol=0)


def test_of_a_head_only_the_pooling_is_left(tmp_path: Path) -> None:
    path = tmp_path / "head.pte"
    head = Head(load_space("s1:width=0.25,resolution=16")).eval()
    write(head, torch.randn(1, head.conv_head.conv.in_channels, 4, 4), path)
    assert left_to_executorch(path) == ["aten::mean"]


def test_times_are_positive_with_any_number_of_threads(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "conv.pte"
    image = torch.randn(2, 3, 8, 8)
    write(nn.Conv2d(3, 4, 3).eval(), image, path)
    capfd.readouterr()
    for threads in (2, 1):
        times = ExecuTorch(threads).time(path, image.numpy(), 0.01)
        assert len(times) >= MIN_RUNS
        assert min(times) > 0
        assert capfd.readouterr() == ("", "")

        from executorch.extension.pybindings import portable_lib

        assert portable_lib._threadpool_get_thread_count() == threads
