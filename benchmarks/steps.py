"""How fast is a training step? This project against plain PyTorch, timm, and between backbones.

supernet  one arch of `s1` on one batch: the MixPath supernet and loop as released (stock modules,
          contiguous tensors, default environment; rewritten here, or the modules of a checkout),
          the same in channels_last, and mobilenas. All have the same weights, archs and batches;
          before anything is timed their logits must agree
kernels   the same step of mobilenas with the kernels that its installation compiled, and by torch's
          operators alone: CPU time of step after step in turn in one process, what autograd keeps
          for the backward pass, and where the time goes
network   one batch of a network: timm's mobilenetv2_100 in channels_last by a plain loop, the same
          network of this project, and fairnas_a, which has 7x7 depthwise convolutions; images/s
          times the network's GMACs
detector  forward, training step and inference with NMS of a whole detector on a noise image with
          eight boxes, seconds

    python benchmarks/steps.py network --rounds 5
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import harness
import numpy as np
import torch
import typer
from harness import Case, Table
from plain_supernet import PlainSupernet, ReleasedSupernet
from torch import Tensor, nn
from trainings import network_steps, supernet_steps

from mobilenas.cost import CostModel
from mobilenas.nn import Network, Supernet
from mobilenas.nn.kernels.compiled import library
from mobilenas.space import Arch, Candidate, Space, load_space
from mobilenas.space.published import PUBLISHED
from mobilenas.train.config import NetworkConfig, SupernetConfig
from mobilenas.train.recipe import make_optimizer

SUPERNET = SupernetConfig(precision="fp32", clip=5)
NETWORK = NetworkConfig(lr=0.01, weight_decay=4e-5, precision="fp32", clip=5.0)
Batch = tuple[Tensor, Tensor]


def supernet(
    width: float = 1.0,
    batch: int = 48,
    rounds: int = 3,
    steps: int = 2,
    paths: str = "1,2,4",
    released: Annotated[
        Path | None, typer.Option(help="A checkout of the released code, whose modules are timed.")
    ] = None,
) -> Iterator[Table]:
    """A step of a supernet, against the released code's way.

    All blocks have the same number of active paths (--paths), of drawn kernels; expansions
    alternate. All rounds repeat the same steps.
    """
    counts = harness.numbers(paths)
    ways = {"baseline": "baseline"} if released is None else {"released": str(released)}
    ways |= {way: way for way in ("channels_last", "mobilenas")}
    worst = largest_difference(load_space(f"s1:width={width}"), counts, next(iter(ways.values())))
    asked = {"width": width, "batch": batch, "steps": steps, "counts": counts}
    cases = [
        Case(name, supernet_rates, asked | {"way": way}, tuned=way == "mobilenas")
        for name, way in ways.items()
    ]
    table = harness.compare(cases, rounds)
    title = f"Logits differ by {worst:.0e} at most; {steps} steps a round after one to warm up."
    yield Table(table.rows, table.formats, title)


def supernet_rates(
    way: str, width: float, batch: int, steps: int, counts: list[int]
) -> dict[str, float]:
    """Images/s for each number of paths, each after one step to warm up."""
    space = load_space(f"s1:width={width}")
    model = build(space, way)
    return {
        f"images/s, paths a block: {paths}": steps
        * batch
        / seconds(model_steps(model, *draw_steps(space, paths, batch, 1 + steps)), 1, steps)
        for paths in counts
    }


def seconds(step: Callable[[int], None], warm_up: int, steps: int) -> float:
    """Of some steps after some to warm up."""
    for n in range(warm_up):
        step(n)
    started = time.perf_counter()
    for n in range(warm_up, warm_up + steps):
        step(n)
    return time.perf_counter() - started


def build(space: Space, way: str) -> nn.Module:
    """The supernet, with the same weights in each way; one is a checkout of the released code."""
    generator = torch.Generator().manual_seed(0)
    ours, plain = Supernet(space, generator=generator), PlainSupernet(space)
    for module in ours.modules():  # initial zeros would hide whole branches from the check
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
    weights = ours.state_dict().values()  # the modules of both come in the same order
    plain.load_state_dict(dict(zip(plain.state_dict(), weights, strict=True)))
    if way == "mobilenas":
        return ours.to(memory_format=torch.channels_last)
    if way == "channels_last":
        return plain.to(memory_format=torch.channels_last)
    return plain if way == "baseline" else ReleasedSupernet(Path(way), plain)


def draw_steps(space: Space, paths: int, batch: int, n: int) -> tuple[list[Batch], list[Arch]]:
    rng = np.random.default_rng(0)
    batches, archs = [], []
    for number in range(n):
        candidates = []
        for i, block in enumerate(space.blocks):
            kernels = tuple(sorted(rng.permutation(block.kernels)[:paths].tolist()))
            candidates.append(Candidate(block.expansions[(i + number) % 2], (kernels,)))
        images = rng.standard_normal((batch, 3, space.resolution, space.resolution), np.float32)
        labels = torch.from_numpy(rng.integers(space.num_classes, size=batch))
        batches.append((torch.from_numpy(images), labels))
        archs.append(Arch(tuple(candidates)))
    return batches, archs


def model_steps(model: nn.Module, batches: list[Batch], archs: list[Arch]) -> Callable[[int], None]:
    if isinstance(model, Supernet):
        return supernet_steps(model, SUPERNET, batches, archs)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.025, momentum=0.9, weight_decay=3e-4)
    return lambda n: plain_step(model, optimizer, SUPERNET.clip, batches[n], archs[n])


def plain_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, clip: float, batch: Batch, *arch: Arch
) -> None:
    """A training step as one writes it by hand."""
    images, labels = batch
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(images, *arch), labels).backward()
    nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()


def largest_difference(space: Space, counts: tuple[int, ...], way: str) -> float:
    """The largest difference of logits to those of another way, at most 1e-4. After an update at
    most 0.05: gradients are 1 % from those in float64 by rounding alone, whoever computes them.
    """
    worst = 0.0
    for paths in counts:
        plain, ours = build(space, way), build(space, "mobilenas")
        batches, archs = draw_steps(space, paths, 8, 1)
        for limit in (1e-4, 0.05):
            logits = [model(batches[0][0], archs[0]) for model in (ours, plain)]
            difference = (logits[0] - logits[1]).abs().max().item()
            assert difference <= limit, f"{paths} paths: logits differ by {difference}"
            worst = max(worst, difference if limit < 0.01 else 0.0)
            for model in (plain.to(memory_format=torch.channels_last), ours):
                model_steps(model, batches, archs)(0)
    return worst


def kernels(
    width: float = 1.0, batch: int = 48, steps: int = 8, paths: str = "1,2,4", threads: int = 1
) -> Iterator[Table]:
    """A step with the compiled kernels against one by torch's operators."""
    torch.set_num_threads(threads)
    assert library() is not None, "the installation compiled no kernels for this processor"
    space = load_space(f"s1:width={width}")
    ways: dict[str, Callable[[], Any]] = {"torch": plain_kernels_only, "kernels": nullcontext}
    rows, parts = [], []
    for count in harness.numbers(paths):
        model = build(space, "mobilenas")
        batches, archs = draw_steps(space, count, batch, 2)
        step = model_steps(model, batches, archs)
        times: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(1 + steps):
            for way, context in ways.items():
                with context():
                    started = time.process_time()
                    step(number % 2)
                    times[way].append(time.process_time() - started)
        each = {way: several[1:] for way, several in times.items()}
        row: dict[str, Any] = {"paths a block": count}
        row |= {f"s CPU, {way}": harness.median_range(several) for way, several in each.items()}
        ratios = [a / b for a, b in zip(*each.values(), strict=True)]
        row |= {"ratio": harness.median_range(ratios), "n": steps}
        for way, context in ways.items():
            with context():
                row[f"MB kept an image, {way}"] = kept(model, batches[0], archs[0]) / batch / 1e6
        rows.append(row)
        for way, context in ways.items():
            with context():
                found = time_of_parts(lambda step=step: step(0))
                parts.append({"paths a block": count, "way": way} | found)
    yield Table(rows, {f"MB kept an image, {way}": ".1f" for way in ways}, "A training step")
    formats = dict.fromkeys([name for row in parts for name in row if "ms" in name], ".0f")
    yield Table(parts, formats, "Where the time of one step goes, by torch's profiler")


@contextmanager
def plain_kernels_only() -> Iterator[None]:
    """Within it blocks are trained as where the installation compiled nothing."""
    with patch("mobilenas.nn.kernels.bottleneck.library", lambda: None):
        yield


def kept(model: nn.Module, batch: Batch, arch: Arch) -> int:
    """Bytes, without weights, that autograd keeps for the backward pass."""
    sizes: dict[int, int] = {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    images, labels = batch
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        logits = model(images.contiguous(memory_format=torch.channels_last), arch)
        loss = nn.functional.cross_entropy(logits, labels)
    assert torch.isfinite(loss)
    return sum(sizes.values())


PARTS = ("other convolutions", "depthwise convolutions", "batch norm", "ReLU6", "rest")


def time_of_parts(step: Callable[[], None]) -> dict[str, float]:
    """Milliseconds of the operators of a step. A function of the kernels counts as the convolution
    in it, with its batch norms, clamps and sums.
    """
    with torch.profiler.profile(record_shapes=True) as profile:
        step()
    found = dict.fromkeys(PARTS, 0.0)
    for event in profile.key_averages(group_by_input_shape=True):
        found[part_of(event.key, event.input_shapes)] += event.self_cpu_time_total / 1e3
    return {f"{part}, ms": value for part, value in found.items()}


def part_of(name: str, shapes: list[list[int]]) -> str:
    other, depthwise, norm, act, rest = PARTS
    if name.startswith("mobilenas::"):
        return depthwise if "depthwise" in name else other
    if name in ("aten::mkldnn_convolution", "aten::convolution_backward"):
        weight = shapes[2 if "backward" in name else 1]
        return depthwise if weight[1] == 1 else other
    if "batch_norm" in name:
        return norm
    return act if "hardtanh" in name or "clamp" in name else rest


def network(
    batch: int = 16, size: int = 224, steps: int = 6, rounds: int = 5, threads: int = 2
) -> Iterator[Table]:
    """A step of a network, against timm's by a plain loop."""
    torch.set_num_threads(threads)
    asked = {"batch": batch, "size": size, "steps": steps, "threads": threads}
    cases = [
        Case(way, network_rate, asked | {"way": way}, tuned=way != "timm")
        for way in ("timm", "mobilenetv2_100", "fairnas_a")
    ]
    yield harness.compare(cases, rounds)


def network_rate(way: str, batch: int, size: int, steps: int, threads: int) -> dict[str, float]:
    """Images/s times GMACs of one way."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn((batch, 3, size, size), generator=generator)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.randint(1000, (batch,), generator=generator)
    reference, text = PUBLISHED["fairnas_a" if way == "fairnas_a" else "mobilenetv2_100"]
    space = load_space(reference)
    arch = space.parse(text)
    gmacs = CostModel(space).flops(arch) / 1e9 * (size / space.resolution) ** 2
    batches = [(images, labels)] * (2 + steps)
    step = (
        timm_steps(batches)
        if way == "timm"
        else network_steps(Network(space, arch), NETWORK, batches)
    )
    return {"images/s x GMACs": steps * batch * gmacs / seconds(step, 2, steps)}


def timm_steps(batches: list[Batch]) -> Callable[[int], None]:
    import timm

    model = timm.create_model("mobilenetv2_100").to(memory_format=torch.channels_last).train()
    optimizer = make_optimizer(NETWORK, model)
    return lambda n: plain_step(model, optimizer, NETWORK.clip, batches[n])


def detector(
    recipe: str = "retinanet", height: int = 800, width: int = 1280, rounds: int = 3
) -> Iterator[Table]:
    """A detector on each of two backbones with fresh weights."""
    asked = {"recipe": recipe, "height": height, "width": width}
    cases = [
        Case(name, detector_seconds, asked | {"backbone": name})
        for name in ("mobilenetv2_100", "fairnas_a")
    ]
    yield harness.compare(cases, rounds)


def detector_seconds(backbone: str, recipe: str, height: int, width: int) -> dict[str, float]:
    """Of each kind of work, done once to warm up."""
    from mmdet.registry import MODELS
    from mmengine.logging import MMLogger

    from mobilenas.detect.config import load_config

    MMLogger.get_instance("mmengine", log_level="WARNING")
    torch.manual_seed(0)
    data = noise(height, width)
    space, arch = PUBLISHED[backbone]
    model = MODELS.build(load_config(recipe, space=space, arch=arch).model)
    model.init_weights()
    works = {"s, forward": forward, "s, training step": update, "s, inference": infer}
    return {name: seconds(lambda n, w=work: w(model, data), 1, 1) for name, work in works.items()}


def noise(height: int, width: int) -> dict[str, Any]:
    """One image and its boxes, as a data loader gives them."""
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    corners = torch.rand(8, 2) * torch.tensor([width - 200.0, height - 200.0])
    shape = (height, width)
    sizes = dict.fromkeys(("img_shape", "ori_shape", "batch_input_shape"), shape)
    sample = DetDataSample(metainfo=sizes | {"scale_factor": (1.0, 1.0), "img_id": 0})
    sample.gt_instances = InstanceData(
        bboxes=torch.cat([corners, corners + 40 + 150 * torch.rand(8, 2)], dim=1),
        labels=torch.arange(8),
    )
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    return {"inputs": [image], "data_samples": [sample]}


def forward(model: Any, data: dict[str, Any]) -> None:
    with torch.no_grad():
        model(model.eval().data_preprocessor(data)["inputs"], mode="tensor")


def update(model: Any, data: dict[str, Any]) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    prepared = model.train().data_preprocessor(data, training=True)
    loss, _ = model.parse_losses(model(**prepared, mode="loss"))
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)


def infer(model: Any, data: dict[str, Any]) -> None:
    model.eval()
    model.test_cfg.score_thr = 0.0  # fresh weights are sure of nothing
    with torch.no_grad():
        (found,) = model.test_step(data)
    assert len(found.pred_instances.bboxes)


if __name__ == "__main__":
    harness.main(supernet, kernels, network, detector)
