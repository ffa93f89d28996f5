"""Batch norm recalibration: the plain mean over batches, and nothing else is touched."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mobilenas.nn import Network, Supernet
from mobilenas.space import Arch, Space, load_space
from mobilenas.train.calibrate import accuracy, inherit, recalibrate

Change = Callable[..., nn.Module]
Sample = Callable[..., list[Arch]]
SPACE = load_space("s1:width=0.125,resolution=8")


def batches(space: Space, count: int = 3, size: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (size, space.spec.in_channels, space.resolution, space.resolution)
    # Each batch is of another kind, so that it shows if one counts more than another.
    return [torch.randn(shape, generator=generator) * (1 + scale) + scale for scale in range(count)]


def make_network(unlike_fresh: Change, sample: Sample, space: Space = SPACE) -> Network:
    network = Network(space, sample(space, 1)[0])
    unlike_fresh(network)
    return network


def statistics(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.named_buffers()}


def norms_of(network: Network) -> list[nn.BatchNorm2d]:
    return [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]


def test_statistics_are_the_mean_over_batches(unlike_fresh: Change, sample: Sample) -> None:
    """For every layer: what it sees is that of the batches before it, normalised by themselves."""
    network = make_network(unlike_fresh, sample).double()
    images = [batch.double() for batch in batches(SPACE)]
    seen: dict[nn.Module, list[Tensor]] = {norm: [] for norm in norms_of(network)}
    hooks = [
        norm.register_forward_pre_hook(lambda module, inputs: seen[module].append(inputs[0]))
        for norm in seen
    ]
    with torch.no_grad():
        for batch in images:
            network.train()(batch)
    for hook in hooks:
        hook.remove()
    recalibrate(network, iter(images))
    assert len(seen) > 30
    for norm, inputs in seen.items():
        means = torch.stack([x.mean((0, 2, 3)) for x in inputs])
        variances = torch.stack([x.var((0, 2, 3), unbiased=True) for x in inputs])
        torch.testing.assert_close(norm.running_mean, means.mean(0))
        torch.testing.assert_close(norm.running_var, variances.mean(0))
        assert norm.num_batches_tracked == 3


def test_first_batch_norm_by_hand(unlike_fresh: Change, sample: Sample) -> None:
    network = make_network(unlike_fresh, sample)
    images = batches(SPACE)
    recalibrate(network, images)
    with torch.no_grad():
        outs = [network.stem.conv(batch).transpose(0, 1).flatten(1) for batch in images]
    count = outs[0].shape[1]
    mean = sum(out.sum(1) / count for out in outs) / 3
    var = sum(((out.T - out.mean(1)) ** 2).sum(0) / (count - 1) for out in outs) / 3
    torch.testing.assert_close(network.stem.bn.running_mean, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(network.stem.bn.running_var, var, rtol=1e-4, atol=1e-5)


def test_momentum_and_weights_are_as_before_and_the_network_evaluates(
    unlike_fresh: Change, sample: Sample
) -> None:
    network = make_network(unlike_fresh, sample).train()
    momenta = [0.1, 0.03, None]
    for i, norm in enumerate(norms_of(network)):
        norm.momentum = momenta[i % 3]
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    recalibrate(network, batches(SPACE))
    assert [norm.momentum for norm in norms_of(network)] == [
        momenta[i % 3] for i in range(len(norms_of(network)))
    ]
    assert all(torch.equal(p, before[name]) for name, p in network.named_parameters())
    assert all(p.grad is None and p.requires_grad for p in network.parameters())
    assert not any(part.training for part in network.modules())


def test_an_error_leaves_momentum_and_eval_mode(unlike_fresh: Change, sample: Sample) -> None:
    network = make_network(unlike_fresh, sample).train()
    with pytest.raises(RuntimeError):
        recalibrate(network, [*batches(SPACE), torch.zeros(1, 1, 1, 1)])
    assert {norm.momentum for norm in norms_of(network)} == {0.1}
    assert not any(part.training for part in network.modules())


def test_statistics_from_before_do_not_matter(unlike_fresh: Change, sample: Sample) -> None:
    network = make_network(unlike_fresh, sample)
    recalibrate(network, batches(SPACE))
    first = statistics(network)
    for norm in norms_of(network):
        norm.running_mean += 3
        norm.running_var *= 7
    recalibrate(network, batches(SPACE))
    assert all(torch.equal(value, first[name]) for name, value in network.named_buffers())


def test_dropout_draws_nothing(unlike_fresh: Change, sample: Sample) -> None:
    space = load_space("s1:width=0.125,resolution=8,head.dropout=0.5")
    network = make_network(unlike_fresh, sample, space).train()
    state = torch.get_rng_state()
    recalibrate(network, batches(space))
    assert torch.equal(torch.get_rng_state(), state)


def test_order_of_evaluations_does_not_matter_and_the_supernet_is_left_alone(
    small_space: Space, unlike_fresh: Change, sample: Sample
) -> None:
    supernet = Supernet(small_space)
    unlike_fresh(supernet)
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    archs, images = sample(small_space, 2), batches(small_space, 2, 4)

    def evaluate(arch: Arch) -> Tensor:
        network = inherit(supernet, arch)
        recalibrate(network, images)
        with torch.no_grad():
            return network(images[0])

    forward = [evaluate(arch) for arch in archs]
    backward = [evaluate(arch) for arch in reversed(archs)]
    assert all(torch.equal(a, b) for a, b in zip(forward, backward[::-1], strict=True))
    after = supernet.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_inherit_gives_the_function_of_the_supernet(unlike_fresh: Change, sample: Sample) -> None:
    supernet = Supernet(SPACE)
    unlike_fresh(supernet).eval()
    (arch,), (x,) = sample(SPACE, 1), batches(SPACE, 1)
    network = inherit(supernet, arch)
    assert not network.training
    assert network.blocks[0].project.weight.is_contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        torch.testing.assert_close(network(x), supernet(x, arch), rtol=1e-4, atol=1e-5)


def test_accuracy_counts_images_not_batches() -> None:
    logits = torch.eye(3)
    labelled = [
        (logits[[0, 1, 2, 0]], torch.tensor([0, 1, 2, 1])),
        (logits[[2]], torch.tensor([0])),
    ]
    network = nn.Identity().train()
    assert accuracy(network, labelled) == pytest.approx(3 / 5)
    assert not network.training


def test_after_an_error_norms_are_as_before(unlike_fresh: Change, sample: Sample) -> None:
    network = make_network(unlike_fresh, sample)
    momenta = [norm.momentum for norm in norms_of(network)]
    with pytest.raises(RuntimeError):
        recalibrate(network, [torch.zeros(2, 7, 8, 8)])  # no image has 7 channels
    assert [norm.momentum for norm in norms_of(network)] == momenta
    assert not any(part.training for part in network.modules())
