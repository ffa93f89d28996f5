"""The supernet of cells: one cell is run and trained, equal to a plain rewrite and to its parts."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobilenas.nn import CellSupernet, fold_batch_norm
from mobilenas.nn.cells import fresh_network
from mobilenas.space import Cell, CellSpace, load_any_space

Change = Callable[..., nn.Module]
CELLS = ("c1", "none.mp", "c3.none.mp", "mp.c1.c1.c3")


def nb101(overrides: str = "channels=4,cells=2,resolution=8") -> CellSpace:
    space = load_any_space(f"nb101:{overrides}")
    assert isinstance(space, CellSpace)
    return space


SPACE = nb101()


def images(n: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 3, SPACE.resolution, SPACE.resolution, generator=generator)


def new(shadow_bn: bool = True, seed: int = 0) -> CellSupernet:
    generator = torch.Generator().manual_seed(seed)
    return CellSupernet(SPACE, shadow_bn=shadow_bn, generator=generator)


def names_in_use(cell: Cell, shadow_bn: bool) -> set[str]:
    """Parameters that this cell uses, from the naming scheme alone."""
    names = {"stem.conv.weight", "classifier.weight", "classifier.bias"}
    norms = {"stem.bn"}
    for number in range(len(SPACE.shapes)):
        names.add(f"cells.{number}.last.conv.weight")
        norms.add(f"cells.{number}.last.bn")
        norms.add(f"cells.{number}.bns.{cell.num_paths - 1 if shadow_bn else 0}")
        for i, op in enumerate(cell.ops):
            node = f"cells.{number}.nodes.{i}"
            if op != "none":
                names.add(f"{node}.enter.conv.weight")
                norms.add(f"{node}.enter.bn")
            if op in ("c1", "c3"):
                names.add(f"{node}.ops.{op}.conv.weight")
                norms.add(f"{node}.ops.{op}.bn")
    return names | {f"{norm}.{part}" for norm in norms for part in ("weight", "bias")}


def rewrite(state: dict[str, Tensor], cell: Cell, shadow_bn: bool, x: Tensor) -> Tensor:
    """The network in eval mode, written out from specification and state dict."""

    def bn(x: Tensor, name: str) -> Tensor:
        keys = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"{name}.{key}"] for key in keys))

    def conv(x: Tensor, name: str) -> Tensor:
        weight = state[f"{name}.conv.weight"]
        return F.relu(bn(F.conv2d(x, weight, padding=weight.shape[-1] // 2), f"{name}.bn"))

    x = conv(x, "stem")
    for number in range(6):
        if number in (2, 4):
            x = F.max_pool2d(x, 2)
        total = torch.zeros(())
        for i, op in enumerate(cell.ops):
            node = f"cells.{number}.nodes.{i}"
            if op == "mp":
                total = total + F.max_pool2d(conv(x, f"{node}.enter"), 3, 1, 1)
            elif op != "none":
                total = total + conv(conv(x, f"{node}.enter"), f"{node}.ops.{op}")
        place = sum(op != "none" for op in cell.ops) - 1 if shadow_bn else 0
        x = conv(bn(total, f"cells.{number}.bns.{place}"), f"cells.{number}.last")
    return F.linear(x.mean(dim=(2, 3)), state["classifier.weight"], state["classifier.bias"])


def relative(value: Tensor, reference: Tensor) -> float:
    return float((value - reference).abs().max() / reference.abs().max())


@torch.no_grad()
@pytest.mark.parametrize("shadow_bn", [True, False])
@pytest.mark.parametrize("text", CELLS)
def test_equals_a_plain_rewrite(text: str, shadow_bn: bool, unlike_fresh: Change) -> None:
    supernet, cell = new(shadow_bn), SPACE.parse(text)
    unlike_fresh(supernet).eval()
    expected = rewrite(supernet.state_dict(), cell, shadow_bn, images())
    assert expected.shape == (3, 10)
    assert relative(supernet(images(), cell), expected) < 1e-5
    last = images().contiguous(memory_format=torch.channels_last)
    supernet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert relative(supernet(last, cell), expected) < 1e-5


@pytest.mark.parametrize("shadow_bn", [True, False])
def test_only_the_weights_of_the_cell_get_gradients_and_move(shadow_bn: bool) -> None:
    supernet = new(shadow_bn).train()
    optimizer = torch.optim.SGD(supernet.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    # The second step must not move what the first has given a momentum.
    for cell in map(SPACE.parse, ("c3.none.mp", "mp.c1")):
        before = {name: p.detach().clone() for name, p in supernet.named_parameters()}
        buffers = {name: b.clone() for name, b in supernet.named_buffers()}
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(supernet(images(), cell), torch.arange(3)).backward()
        optimizer.step()
        used = names_in_use(cell, shadow_bn)
        assert used < before.keys()
        for name, parameter in supernet.named_parameters():
            assert (parameter.grad is not None) == (name in used), name
            assert torch.equal(parameter, before[name]) or name in used, name
        for name, buffer in supernet.named_buffers():
            norm = name.rpartition(".")[0]
            assert torch.equal(buffer, buffers[name]) != (f"{norm}.weight" in used), name


@pytest.mark.parametrize(("shadow_bn", "count"), [(True, 4), (False, 1)])
def test_number_of_batch_norms_after_the_sum(shadow_bn: bool, count: int) -> None:
    norms = {name.split(".")[3] for name in new(shadow_bn).state_dict() if ".bns." in name}
    assert norms == {str(i) for i in range(count)}


@torch.no_grad()
@pytest.mark.parametrize("shadow_bn", [True, False])
@pytest.mark.parametrize("text", CELLS)
def test_a_network_computes_what_the_supernet_does(
    text: str, shadow_bn: bool, unlike_fresh: Change
) -> None:
    supernet, cell = new(shadow_bn), SPACE.parse(text)
    unlike_fresh(supernet).eval()
    plain = supernet.network(cell).eval()
    expected = supernet(images(), cell)
    assert torch.equal(plain(images()), expected)
    assert relative(fold_batch_norm(plain)(images()), expected) < 1e-4


@torch.no_grad()
def test_networks_are_copies(unlike_fresh: Change) -> None:
    supernet, cell = new(), SPACE.parse("c3.none.mp")
    unlike_fresh(supernet).eval()
    before = copy.deepcopy(supernet.state_dict())
    plain = supernet.network(cell).train()
    plain(images())
    for tensor in plain.state_dict().values():
        tensor.zero_()
    assert all(torch.equal(value, before[key]) for key, value in supernet.state_dict().items())


@torch.no_grad()
def test_parts_do_not_change_what_others_share(unlike_fresh: Change) -> None:
    """Archs that share a first part run the rest on the very same tensor."""
    supernet = new()
    unlike_fresh(supernet).eval()
    for text in CELLS:
        x = images()
        for part in supernet.network(SPACE.parse(text)).eval():
            before = x.clone()
            y = part(x)
            assert torch.equal(x, before)
            x = y


def test_initial_weights_follow_the_generator() -> None:
    first, same, other = (new(seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert not torch.equal(first["stem.conv.weight"], other["stem.conv.weight"])
    norms = [part for part in new().modules() if isinstance(part, nn.BatchNorm2d)]
    assert all(bool(torch.all(norm.weight == 1)) for norm in norms)


def test_fresh_networks_are_of_one_supernet_that_is_built_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built = []

    class Counted(CellSupernet):
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, **options)  # type: ignore[arg-type]
            built.append(self)

    monkeypatch.setattr("mobilenas.nn.cells.CellSupernet", Counted)
    space, supernet = nb101(), new(seed=3)
    for cell in map(SPACE.parse, CELLS):
        found, expected = (
            network.state_dict()
            for network in (fresh_network(space, cell, seed=3), supernet.network(cell))
        )
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in found)
        with torch.no_grad():  # what is done to one of them leaves the next as it is
            found["0.conv.weight"].zero_()
    assert len(built) == 1
