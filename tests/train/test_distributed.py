"""Two processes on a joint batch against one process with all of it.

The workers are started once; each calls the functions of JOINT and keeps what they return. Called
in this process with SINGLE, the same functions give what has to come out.
"""

import copy
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from two_processes import in_two_processes

from mobilenas.base.errors import BadInput, Diverged, ProcessesDiffer
from mobilenas.nn import Network, Supernet
from mobilenas.nn.sharing import Sharing
from mobilenas.space import load_space
from mobilenas.strategies import Fair, Sandwich
from mobilenas.strategies.phases import first_phases
from mobilenas.strategies.supernet_task import SupernetTask
from mobilenas.train import distributed
from mobilenas.train.config import NetworkConfig, SupernetConfig
from mobilenas.train.distributed import SINGLE, Processes, joined
from mobilenas.train.recipe import Mixer, Objective
from mobilenas.train.trainer import Trainer

SPACE = load_space("digits:resolution=16")
ARCHS = Fair(SPACE, 0).archs(0)
NAMES = [f"arch {arch}" for arch in ARCHS]
CONFIG = SupernetConfig(
    lr=0.1, weight_decay=0.01, clip=3.0, device="cpu", memory_format="contiguous"
)
Results = dict[str, dict[str, Any]]


def changed(module: nn.Module) -> Any:
    """With weights unlike those of a fresh module, whose residual blocks have no gradients."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return module


def batch(processes: Processes, space: Any = SPACE) -> tuple[Tensor, Tensor]:
    """The share of 16 images whose mean changes from row to row, and labels."""
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(16, space.spec.in_channels, *[space.resolution] * 2, generator=generator)
    images += torch.linspace(-1, 1, 16)[:, None, None, None]
    rows = torch.from_numpy(processes.share(16))
    return images[rows], torch.arange(16)[rows] % 10


def outcome(module: nn.Module, losses: list[float]) -> dict[str, Any]:
    gradients = {name: p.grad for name, p in module.named_parameters()}
    return {"losses": losses, "gradients": gradients, "state": module.state_dict()}


def network_step(processes: Processes) -> dict[str, Any]:
    space = load_space("fairnas:width=0.25,resolution=32,num_classes=10,activation=hard_swish")
    arch = space.sample(np.random.default_rng(0))
    generator = torch.Generator().manual_seed(0)
    network = changed(Network(space, arch, drop_rate=0.0, generator=generator)).double()
    processes.join_batch_norms(network)
    images, labels = batch(processes, space)
    loss = F.cross_entropy(network(images.double()), labels)
    loss.backward()
    processes.average_gradients(network.parameters())
    processes.average_statistics(network)
    return outcome(network, processes.mean(loss[None]).tolist())


def train_step(
    supernet: nn.Module, images_and_labels: tuple[Tensor, Tensor], processes: Processes
) -> list[float]:
    """One step of a trainer on all ARCHS; their losses."""
    trainer = Trainer(supernet, CONFIG, None, processes=processes)  # type: ignore[arg-type]
    objective, (images, labels) = Objective(CONFIG, 10, 0, None), images_and_labels
    losses = (objective.loss(trainer.forward(images, arch), labels, None) for arch in ARCHS)
    trainer.step(0, losses, NAMES)
    found: list[float] = trainer._unread[0][2][:-1].tolist()
    trainer.read_losses()
    return found


def supernet_step(
    processes: Processes, joint_norms: bool = True, sharing: Sharing = "none"
) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    supernet = changed(Supernet(SPACE, sharing=sharing, generator=generator))
    if joint_norms:
        processes.join_batch_norms(supernet)
    return outcome(supernet, train_step(supernet, batch(processes), processes))


def separate_norms(processes: Processes) -> dict[str, Any]:
    return supernet_step(processes, joint_norms=False)


def shared_weights(processes: Processes) -> dict[str, Any]:
    return supernet_step(processes, sharing="both")


def shared_weights_separate_norms(processes: Processes) -> dict[str, Any]:
    return supernet_step(processes, joint_norms=False, sharing="both")


def sandwich(processes: Processes) -> dict[str, Any]:
    """A step of the largest arch alone and two of a sandwich that distils. In float64: in float32
    two of these carry some value over the kink of an activation.
    """
    generator = torch.Generator().manual_seed(0)
    supernet = changed(Supernet(SPACE, sharing="both", generator=generator)).double()
    processes.join_batch_norms(supernet)
    changes = {"batch_size": 16, "distill_inplace": "adaptive", "warmup_largest_passes": 1}
    config, strategy = CONFIG.model_copy(update=changes), Sandwich(SPACE, 0, 2)
    images, labels = batch(processes)
    batches: Any = SimpleNamespace(iterate=lambda *_: iter([(images.double(), labels)] * 3))
    trainer = Trainer(supernet, config, batches, processes=processes)
    objective = Objective(config, 10, 0, None)
    task = SupernetTask(strategy, config, objective, 16, first_phases(config, SPACE, 0))
    for n in range(3):
        task.step(trainer, n)
    trainer.read_losses()
    assert trainer.progress.losses == 1 + 2 * 4
    return outcome(supernet, [trainer.progress.loss_sum])


def cumulative_statistics(processes: Processes) -> dict[str, Any]:
    norm = nn.BatchNorm2d(3, momentum=None, dtype=torch.float64)
    processes.join_batch_norms(norm)
    for number in range(3):
        norm(batch(processes)[0].double() * (1 + number))
    evaluated = norm.eval()(batch(SINGLE)[0].double())
    return {"statistics": norm.state_dict(), "evaluated": evaluated.detach()}


def bare_norms(processes: Processes) -> dict[str, Any]:
    """Norms that no gradient tells of: without affine a joint one, a separate one and one that sees
    no image; and one whose weight is frozen.
    """
    channels = SPACE.spec.in_channels
    norms = nn.ModuleList(nn.BatchNorm2d(channels, affine=number == 3) for number in range(4))
    norms.requires_grad_(False)
    processes.join_batch_norms(norms[:1])
    generator = torch.Generator().manual_seed(3)
    for norm in norms:
        norm.running_mean.normal_(generator=generator)  # type: ignore[operator, union-attr]
    images = batch(processes)[0]
    joint, *_ = norms[0](images), norms[1](images), norms[3](images)
    processes.average_statistics(norms)
    return {"state": norms.state_dict(), "joint": processes.mean(joint.pow(3).mean()[None])}


def second_derivative(processes: Processes) -> dict[str, Any]:
    """A Hessian-vector product through a joint batch norm."""
    conv = nn.Conv2d(SPACE.spec.in_channels, 3, 1, bias=False, dtype=torch.float64)
    nn.init.normal_(conv.weight, generator=torch.Generator().manual_seed(4))
    norm = nn.BatchNorm2d(3, affine=False, dtype=torch.float64)
    processes.join_batch_norms(norm)
    loss = F.softplus(norm(conv(batch(processes)[0].double()).pow(3))).pow(2).mean()
    (gradient,) = torch.autograd.grad(loss, conv.weight, create_graph=True)
    direction = torch.arange(gradient.numel()).view_as(gradient)
    (product,) = torch.autograd.grad((gradient * direction).sum(), conv.weight)
    return {"product": processes.mean(product)}


def counts(processes: Processes) -> dict[str, Any]:
    return {"total": processes.total(3 + processes.rank)}


def same_archs(processes: Processes) -> dict[str, Any]:
    processes.check_same(3, NAMES)
    return {}


def raised(error: type[Exception], function: Callable[[], object]) -> dict[str, Any]:
    with pytest.raises(error) as caught:
        function()
    return {"error": str(caught.value)}


def other_archs(processes: Processes) -> dict[str, Any]:
    names = NAMES if processes.is_main else NAMES[:-1]
    return raised(ProcessesDiffer, lambda: processes.check_same(3, names))


def other_step(processes: Processes) -> dict[str, Any]:
    return raised(ProcessesDiffer, lambda: processes.check_same(3 + processes.rank, NAMES))


def one_diverges(processes: Processes) -> dict[str, Any]:
    supernet = Supernet(SPACE, generator=torch.Generator().manual_seed(0))
    images, labels = batch(processes)
    if not processes.is_main:
        images[0] = math.nan
    return raised(Diverged, lambda: train_step(supernet, (images, labels), processes))


IN_FLOAT32 = [supernet_step, shared_weights, sandwich]  # the losses of all of them are
EQUAL = [*IN_FLOAT32, network_step, cumulative_statistics, second_derivative]
JOINT = [
    *EQUAL,
    separate_norms,
    shared_weights_separate_norms,
    bare_norms,
    counts,
    same_archs,
    other_archs,
    other_step,
    one_diverges,
]


def work() -> Results:
    distributed._GRACE_SECONDS = 0
    results: Results = {}
    try:
        with joined() as processes:
            results |= {function.__name__: function(processes) for function in JOINT}
            read = processes.main_first(lambda: "made", lambda: "read")
            with processes.together():
                if processes.rank == 1:
                    raise BadInput("only here")
    except (BadInput, SystemExit) as error:
        results["end"] = {"read": read, "error": repr(error)}
    return results


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[Results]:
    """What each of the two workers found."""
    return in_two_processes(work, tmp_path_factory.mktemp("workers"))


def check_close(found: Any, expected: Any, tolerance: float, name: str = "") -> None:
    """Equal to the tolerance, relative to the largest value of a tensor."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            check_close(found[key], value, tolerance, f"{name}.{key}")
    elif expected is None:
        assert found is None, name
    else:
        a, b = torch.as_tensor(found).double(), torch.as_tensor(expected).double()
        difference = float((a - b).abs().max())
        assert difference <= tolerance * max(1e-2, float(b.abs().max())), f"{name}: {difference}"


@pytest.mark.parametrize(
    "function", [*EQUAL, separate_norms, shared_weights_separate_norms, bare_norms]
)
def test_processes_are_the_same_to_the_bit(
    function: Callable[..., Any], results: list[Results]
) -> None:
    main, other = (found[function.__name__] for found in results)
    check_close(other, main, tolerance=0)


@pytest.mark.parametrize("function", EQUAL)
def test_joint_batch_norms_make_two_processes_one(
    function: Callable[..., Any], results: list[Results]
) -> None:
    tolerance = 1e-5 if function in IN_FLOAT32 else 1e-11
    check_close(results[0][function.__name__], function(SINGLE), tolerance)


@pytest.mark.parametrize("function", [supernet_step, separate_norms])
def test_weights_in_no_arch_have_no_gradient_and_stay(
    function: Callable[..., Any], results: list[Results]
) -> None:
    before = changed(Supernet(SPACE, generator=torch.Generator().manual_seed(0))).state_dict()
    found = results[0][function.__name__]
    idle = [name for name, gradient in found["gradients"].items() if gradient is None]
    assert 10 < len(idle) < len(found["gradients"]) - 10
    norms = [name.removesuffix("weight") for name in idle if f"{name[:-6]}running_var" in before]
    assert len(norms) > 3
    idle += [norm + kind for norm in norms for kind in ("running_mean", "running_var")]
    assert all(torch.equal(found["state"][name], before[name]) for name in idle)


def test_without_them_gradients_and_statistics_are_the_mean(results: list[Results]) -> None:
    supernet = changed(Supernet(SPACE, generator=torch.Generator().manual_seed(0)))
    alone = []
    for rank in range(2):
        copied = copy.deepcopy(supernet).train()
        images, labels = batch(Processes(rank, 2))
        losses = [F.cross_entropy(copied(images, arch), labels) for arch in ARCHS]
        sum(losses).backward()  # type: ignore[union-attr]
        alone.append((copied, torch.stack(losses).tolist()))
    (first, first_losses), (second, second_losses) = alone
    found = results[0]["separate_norms"]
    check_close(found["losses"], np.mean([first_losses, second_losses], axis=0), 1e-5)

    pairs = zip(first.parameters(), second.parameters(), strict=True)
    expected = [None if a.grad is None else (a.grad + b.grad) / 2 for a, b in pairs]
    norm = torch.cat([grad.flatten() for grad in expected if grad is not None]).norm()
    assert norm > CONFIG.clip  # so what is clipped is the norm of the mean
    for (name, gradient), mean in zip(found["gradients"].items(), expected, strict=True):
        check_close(gradient, None if mean is None else mean * (CONFIG.clip / norm), 1e-4, name)
    for (name, a), b in zip(first.named_buffers(), second.buffers(), strict=True):
        check_close(found["state"][name], (a + b) / 2, 1e-5, name)


def test_batch_norms_that_no_gradient_tells_of(results: list[Results]) -> None:
    found, expected = results[0]["bare_norms"], bare_norms(SINGLE)
    check_close(found["joint"], expected["joint"], 1e-5)
    for name in ("0.running_mean", "0.running_var", "1.running_mean", "3.running_mean"):
        check_close(found["state"][name], expected["state"][name], 1e-5, name)
    for name in ("2.running_mean", "2.running_var"):
        assert torch.equal(found["state"][name], expected["state"][name])


def test_counts_are_added(results: list[Results]) -> None:
    assert [found["counts"]["total"] for found in results] == [7, 7]


@pytest.mark.parametrize("function", [other_archs, other_step])
def test_processes_that_differ_stop(function: Callable[..., Any], results: list[Results]) -> None:
    for found in results:
        assert found[function.__name__]["error"].startswith("step ")


def test_a_loss_that_one_process_finds_stops_all_and_names_the_arch(
    results: list[Results],
) -> None:
    for found in results:
        assert str(ARCHS[0]) in found["one_diverges"]["error"]


def test_what_fails_in_one_process_is_told_once(results: list[Results]) -> None:
    assert results[0]["end"] == {"read": "made", "error": "SystemExit(1)"}
    assert results[1]["end"] == {"read": "read", "error": "BadInput('only here')"}


# --- shares ---------------------------------------------------------------------------------------


@given(world=st.integers(1, 9), half=st.integers(1, 20))
def test_shares_are_a_partition_into_mirrored_pairs(world: int, half: int) -> None:
    count = 2 * half * world
    shares = [Processes(rank, world).share(count) for rank in range(world)]
    assert {len(share) for share in shares} == {count // world}
    assert sorted(np.concatenate(shares).tolist()) == list(range(count))
    for share in shares:
        assert np.array_equal(share + share[::-1], np.full(len(share), count - 1))


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_a_share_is_mixed_as_in_the_joint_batch(kind: str) -> None:
    config = NetworkConfig.model_validate({kind: 1.0, "label_smoothing": 0.1})
    images, labels = batch(SINGLE)
    for step in range(5):
        mixed, target = Mixer(config, 10, seed=4)(images.clone(), labels, step)
        assert not torch.equal(mixed, images)
        for rank in range(4):
            rows = torch.from_numpy(Processes(rank, 4).share(16))
            mine, my_target = Mixer(config, 10, seed=4)(images[rows], labels[rows], step)
            assert torch.equal(mine, mixed[rows])
            assert torch.equal(my_target, target[rows])


@given(count=st.integers(1, 200), world=st.integers(2, 9))
def test_a_batch_that_does_not_divide_is_refused(count: int, world: int) -> None:
    if count % (2 * world) == 0:
        Processes(0, world).share(count)
        return
    with pytest.raises(BadInput, match=rf"batch_size {count}: .* multiple of {2 * world},"):
        Processes(0, world).share(count)


@pytest.mark.parametrize("count", [1, 7])
def test_one_process_takes_any_batch(count: int) -> None:
    assert SINGLE.share(count).tolist() == list(range(count))


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")  # others set these too
    monkeypatch.setenv("WORLD_SIZE", "4")
    with joined() as processes:
        assert processes == SINGLE
        assert not torch.distributed.is_initialized()
