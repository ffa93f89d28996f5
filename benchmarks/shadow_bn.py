"""Why one batch norm per number of paths: what trained supernets of both kinds look like inside.

For each block and expansion of two supernets, one with shadow batch norms and one with a shared
one, on validation images that come through randomly drawn archs, in eval mode:

- how alike the outputs of two depthwise paths are: the cosine of the feature maps of an image, and
  the correlation, which leaves out the mean that ReLU6 makes positive;
- mean and variance per channel of the sum of k paths, over all subsets of k, relative to k = 1;
- variance of the projected sum after the batch norm that serves it: 1 where its statistics fit.

    python benchmarks/shadow_bn.py --shadow RUN --shared RUN
"""

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import harness
import numpy as np
import torch
from harness import PathOption, Table
from torch import Tensor, nn

from mobilenas.base.errors import BadInput
from mobilenas.nn import Supernet
from mobilenas.nn.choice_block import Branch, ChoiceBlock
from mobilenas.report.plots import BUDGET, FRONT, INK, new_figure, save_png
from mobilenas.train.supernets import open_supernet_run

Values = dict[tuple[str, int], list[float]]  # measure and number of paths -> one value a case


@torch.no_grad()
def measure(folder: Path, archs: int, images: int, seed: int) -> Values:
    """All cases (arch, block, expansion, subset of paths) of a supernet."""
    run = open_supernet_run(folder)
    supernet = run.load_supernet().eval()
    assert isinstance(supernet, Supernet)
    space = supernet.space
    if any(b.groups > 1 or b.squeeze_excite or b.has_linear_paths for b in space.layers):
        raise BadInput(f"{folder}: {space.name} has channel groups, squeeze-excite or linear paths")
    rows = run.images.splits.validate[:images]
    ((x0, _),) = run.images.evaluation(run.images.data.train, indices=rows, batch_size=images)
    rng = np.random.default_rng(seed)
    values: Values = {}
    for _ in range(archs):
        x = supernet.stem(x0)
        candidates = space.candidates_of(space.sample(rng))
        for block, candidate in zip(supernet.blocks, candidates, strict=True):
            assert isinstance(block, ChoiceBlock)
            for branch in block.branches.values():
                assert isinstance(branch, Branch)
                look_into(branch, branch.expand(x), values)
            x = block(x, candidate)
    return values


def look_into(branch: Branch, hidden: Tensor, values: Values) -> None:
    """Add the measures of one branch whose depthwise paths all get `hidden`."""
    outputs = [path(hidden) for path in branch.groups[0].values()]  # type: ignore[operator]

    def add(name: str, paths: int, value: Tensor) -> None:
        values.setdefault((name, paths), []).append(float(value))

    for one, other in combinations(outputs, 2):
        add("cosine", 2, cosine(one, other))
        add("correlation", 2, cosine(centred(one), centred(other)))
    base = torch.stack([torch.stack(moments(path)) for path in outputs]).mean(dim=0)
    for paths in range(1, len(outputs) + 1):
        for subset in combinations(outputs, paths):
            total = torch.stack(subset).sum(dim=0)
            mean, variance = moments(total)
            add("mean", paths, mean / base[0])
            add("variance", paths, variance / base[1])
            norm = branch.bn_for(paths)
            assert isinstance(norm, nn.BatchNorm2d)
            projected = branch.project(total)
            assert norm.running_mean is not None and norm.running_var is not None
            shift = norm.running_mean[:, None, None]
            scale = (norm.running_var + norm.eps).sqrt()[:, None, None]
            normalised = (projected - shift) / scale
            add("normalised", paths, normalised.var(dim=(0, 2, 3)).median())


def cosine(one: Tensor, other: Tensor) -> Tensor:
    """Mean over images of the cosine of two feature maps."""
    return nn.functional.cosine_similarity(one.flatten(1), other.flatten(1)).mean()


def centred(x: Tensor) -> Tensor:
    return x - x.mean(dim=(0, 2, 3), keepdim=True)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over channels of each channel's mean and variance."""
    return x.mean(dim=(0, 2, 3)).mean(), x.var(dim=(0, 2, 3)).mean()


def row(values: Values, name: str) -> list[float]:
    """The median case for each number of paths."""
    return [float(np.median(values[key])) for key in sorted(values) if key[0] == name]


def main(
    shadow: PathOption,
    shared: PathOption,
    archs: int = 8,
    images: int = 256,
    seed: int = 0,
    png: Path = Path("docs/img/shadow_bn.png"),
) -> Iterator[Table]:
    """Paths, their sum and what the batch norm makes of it, in two run folders of supernets."""
    found = {
        name: measure(folder, archs, images, seed)
        for name, folder in (("shadow", shadow), ("shared", shared))
    }
    rows, alike = [], []
    for name, values in found.items():
        for measured in ("mean", "variance", "normalised"):
            by_paths = {str(k): x for k, x in enumerate(row(values, measured), start=1)}
            rows.append({"supernet": f"{name} BN", "measure": measured} | by_paths)
        for measured in ("cosine", "correlation"):
            low, middle, high = np.percentile(values[measured, 2], [10, 50, 90])
            extent = f"{middle:.2f} ({low:.2f} to {high:.2f})"
            alike.append({"supernet": f"{name} BN", "two paths": measured, "median (80 %)": extent})
    title = f"{archs} archs, {images} images, seed {seed}; medians, by number of paths"
    yield Table(rows, dict.fromkeys(by_paths, ".2f"), title)
    yield Table(alike)
    plot(png, found)


def plot(path: Path, found: dict[str, Values]) -> None:
    """Three panels: similarity of paths, moments of their sum, variance after batch norm."""
    figure, first = new_figure(10.5, 3.6)
    figure.delaxes(first)
    axes = figure.subplots(1, 3)
    shadow = found["shadow"]
    bins = np.linspace(-0.25, 1, 26).tolist()
    for name, colour in (("cosine", FRONT), ("correlation", BUDGET)):
        axes[0].hist(shadow[name, 2], bins, color=colour, alpha=0.6, label=name)
    axes[0].set_title("outputs of two paths", loc="left", fontsize=10)
    axes[0].set_ylabel("pairs of paths")
    paths = np.arange(1, len(row(shadow, "mean")) + 1)
    axes[1].plot(paths, row(shadow, "mean"), "o-", color=BUDGET, label="mean")
    axes[1].plot(paths, row(shadow, "variance"), "o-", color=FRONT, label="variance")
    for power, style, label in ((1, ":", "k"), (2, "--", "k²")):
        axes[1].plot(paths, paths**power, style, color=INK, linewidth=1, label=label)
    axes[1].set_title("sum of k paths, relative to one", loc="left", fontsize=10)
    for name, colour in (("shared", BUDGET), ("shadow", FRONT)):
        values = row(found[name], "normalised")
        axes[2].plot(paths, values, "o-", color=colour, label=f"{name} batch norm")
    axes[2].axhline(1, color=INK, linestyle=":", linewidth=1)
    axes[2].set_ylim(bottom=0)
    axes[2].set_title("variance after the batch norm", loc="left", fontsize=10)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=8)
    for axis in axes[1:]:
        axis.set_xticks(paths)
        axis.set_xlabel("active paths k")
    save_png(path, figure)


if __name__ == "__main__":
    harness.main(main)
