"""Data sets that other libraries read: scikit-learn's digits, torchvision's CIFAR."""

from pathlib import Path

import numpy as np

from mobilenas.base.errors import BadInput
from mobilenas.data.images import Images
from mobilenas.data.pixels import check_memory, fit_all

Loaded = tuple[tuple[str, ...], Images, Images]  # classes, train, test


def load_digits(resolution: int, crop: float) -> Loaded:
    """The 1,797 handwritten digits, of each class every fifth for testing."""
    from sklearn.datasets import load_digits  # here: it takes a second to import

    digits = load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)  # the source counts 0..16
    labels = digits.target.astype(np.int64)
    is_test = np.zeros(len(labels), dtype=bool)
    for label in range(10):
        is_test[np.flatnonzero(labels == label)[4::5]] = True
    check_memory("digits", len(labels), resolution)
    pixels = fit_all(np.repeat(grey[..., None], 3, axis=3), resolution, crop)
    classes = tuple(str(name) for name in digits.target_names)
    train, test = (Images(pixels[part], labels[part]) for part in (~is_test, is_test))
    return classes, train, test


def load_cifar(kind: str, root: Path, resolution: int, crop: float) -> Loaded:
    """cifar10 or cifar100. Raises BadInput naming a file that is missing or damaged."""
    from torchvision.datasets import CIFAR10, CIFAR100  # here: it takes a second to import

    reader = {"cifar10": CIFAR10, "cifar100": CIFAR100}[kind]
    folder = root / reader.base_folder
    names = [name for name, _ in [*reader.train_list, *reader.test_list]]
    for name in [*names, reader.meta["filename"]]:
        if not (folder / name).is_file():
            raise BadInput(f"{kind}:{root}: {folder / name} does not exist; unpack {reader.url}")
    # torchvision unpickles these files, but only after their MD5 matched the published one.
    try:
        train, test = (reader(root, train=part, download=False) for part in (True, False))
    except RuntimeError as error:
        raise BadInput(
            f"{kind}:{root}: a file in {folder} is damaged (wrong MD5); unpack {reader.url} again"
        ) from error
    check_memory(f"{kind}:{root}", len(train.data) + len(test.data), resolution)
    images = [
        Images(fit_all(part.data, resolution, crop), np.array(part.targets, dtype=np.int64))
        for part in (train, test)
    ]
    return tuple(train.classes), images[0], images[1]
