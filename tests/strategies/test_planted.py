"""Right answers that are planted where a strategy learns parts of candidates, not candidates."""

from typing import cast

import torch
from torch import Tensor, nn
from toys import CLASSES, FEATURES, Batches, ImageBatches, Steps, blocks, configured, searched

from mobilenas.nn.merged import MergedEdge
from mobilenas.nn.views import Views, mix
from mobilenas.space import Choice, load_space
from mobilenas.strategies.choices import Choices
from mobilenas.strategies.mergenas import MergeNas
from mobilenas.strategies.rome import Rome

DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))  # of each class
OPS = ("nor_conv_1x1", "nor_conv_3x3", "skip_connect")


class Shifted(Batches):
    """Noise in two channels, moved by a pixel to opposite sides, each class in another direction:
    only who sees neighbours sees that they are alike, and what is in the middle says nothing.
    """

    def __call__(self, n: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(1000 * self.seed + n)
        labels = torch.randint(CLASSES, (self.size,), generator=generator)
        noise = torch.randn(self.size, 8, 8, generator=generator)
        sides = [DIRECTIONS[label] for label in labels.tolist()]
        moved = [
            torch.stack([x.roll((dy, dx), (0, 1)), x.roll((-dy, -dx), (0, 1))])
            for x, (dy, dx) in zip(noise, sides, strict=True)
        ]
        return torch.stack(moved), labels


class OneEdge(nn.Module):
    """A merged edge, and what tells how strongly each of its channels varies."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 1, bias=True)
        self.edge = MergedEdge(OPS, 8, 1, False, True)
        self.classifier = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor, views: Views) -> Tensor:
        y = self.edge(self.stem(x), views[0])
        return cast(Tensor, self.classifier(y.relu().square().mean((2, 3))))


def test_mergenas_finds_the_convolution_that_sees_neighbours() -> None:
    torch.manual_seed(0)
    of = Choices((Choice("edge", OPS),))
    config = configured(MergeNas, arch_lr=0.03, lr=0.05)
    strategy = MergeNas(of, config, seed=0)
    steps = Steps(OneEdge(), config, Shifted, space=blocks(1))
    for n in range(150):
        strategy.step(steps(n, n / 149))
    (p,) = strategy.probabilities()
    assert float(p.detach()[1]) > 0.65


class Paths(nn.Module):
    """A block whose candidates put out less noise, the more of their paths are the planted ones."""

    def __init__(self, candidates: tuple[str, ...], planted: str) -> None:
        super().__init__()
        self.classifier = nn.Linear(FEATURES, CLASSES)
        ours = [set(name) - {"k"} for name in candidates]
        right = set(planted) - {"k"}
        self.wrong = [len(own ^ right) for own in ours]

    def forward(self, x: Tensor, views: Views) -> Tensor:
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(len(x)))
        y = mix(views[0], lambda ids: [x + self.wrong[i] * noise for i in ids])
        return cast(Tensor, self.classifier(y.flatten(1)))


def test_rome_finds_the_paths_that_are_right_together() -> None:
    torch.manual_seed(0)
    space = blocks(1)
    (choice,) = searched(space).choices.ops
    planted = "e6k57"
    strategy = Rome(searched(space).choices, configured(Rome), seed=0)
    steps = Steps(Paths(choice.candidates, planted), strategy.config, space=space)
    for n in range(150):
        strategy.step(steps(n, n / 149))
    assert str(strategy.derive(steps.searchable, {})) == planted


def test_all_batch_norms_of_blocks_learn_by_a_few_samples_of_rome() -> None:
    """Those of each number of paths."""
    space = load_space("digits:width=0.5,resolution=8")
    strategy = Rome(searched(space).choices, configured(Rome), seed=0)
    supernet = strategy.supernet(searched(space), strategy.config, torch.Generator().manual_seed(0))
    steps = Steps(supernet, strategy.config, ImageBatches, space=space)
    norms = {n: p for n, p in supernet.named_parameters() if ".bns." in n or ".after_sum." in n}
    assert any(name.endswith(".bns.1.weight") for name in norms)
    learnt: set[str] = set()
    for n in range(6):
        strategy.fit(steps(n))
        learnt |= {name for name, p in norms.items() if p.grad is not None and p.grad.any()}
    assert learnt == norms.keys()
