"""How fast are training images streamed from disk? Ours against torchvision's, in one run.

JPEG files of 500 x 375 in class folders, made in a temporary folder; random resized crop and flip,
normalised, in whole batches, by as many workers: one pass over the images, in a fresh process each.
The workers' start is a part of the pass.

    python benchmarks/loader.py --images 2000 --workers 2
"""

import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import harness
import numpy as np
from harness import Case, Table
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from mobilenas.data import Augment, Loader, Preparation, open_data

CLASSES, SIZE = 10, (500, 375)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main(
    images: int = 2000, workers: int = 2, resolution: int = 224, batch: int = 64, rounds: int = 3
) -> Iterator[Table]:
    """Images/s of the loader against torchvision's ImageFolder and DataLoader."""
    with tempfile.TemporaryDirectory() as folder:
        make_images(Path(folder), images)
        asked = {"folder": folder, "workers": workers, "resolution": resolution, "batch": batch}
        yield harness.compare(
            [Case("torchvision", torchvision, asked), Case("mobilenas", mobilenas, asked)], rounds
        )


def make_images(root: Path, count: int) -> None:
    """Smooth noise, which as JPEG takes about what a photo does."""
    rng = np.random.default_rng(0)
    for number in range(count):
        folder = root / f"{number % CLASSES}"
        folder.mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (SIZE[1] // 5, SIZE[0] // 5, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize(SIZE, Image.Resampling.BICUBIC)
        image.save(folder / f"{number:05}.jpg", quality=90)


def torchvision(folder: str, workers: int, resolution: int, batch: int) -> dict[str, float]:
    from torchvision import datasets, transforms

    change = transforms.Compose(
        [
            transforms.RandomResizedCrop(resolution),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    images = datasets.ImageFolder(folder, change)
    loader = DataLoader(images, batch, shuffle=True, num_workers=workers, drop_last=True)
    return figures(loader)


def mobilenas(folder: str, workers: int, resolution: int, batch: int) -> dict[str, float]:
    train = open_data(folder).train
    batches = Loader(Preparation(resolution, MEAN, STD), workers=workers).training(
        train,
        np.arange(len(train)),
        batch_size=batch,
        seed=0,
        augment=Augment(crop="resize", cutout=0),
    )
    return figures(batches.iterate(0, len(train) // batch))


def figures(batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Images/s, and seconds to the first batch."""
    started = time.perf_counter()
    times, count = [], 0
    for _, labels in batches:
        times.append(time.perf_counter() - started)
        count += len(labels)
    return {"images/s": count / times[-1], "s to the first batch": times[0]}


if __name__ == "__main__":
    harness.main(main)
