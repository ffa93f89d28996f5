"""What an index of folders, parquet or tar files gives: the parts, and the names of the classes."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mobilenas.base.errors import BadInput
from mobilenas.data.images import EncodedImages
from mobilenas.data.roles import Role


@dataclass(frozen=True, eq=False)
class Indexed:
    """What the files of a source hold. test_role: which part `test` is. left_out: the numbers of
    files and images that are not used, by the reason.
    """

    classes: tuple[str, ...]
    train: EncodedImages
    test: EncodedImages | None
    test_role: Role
    left_out: Counter[str]


def make_indexed(
    parts: Mapping[Role, EncodedImages], classes: tuple[str, ...] | None, left_out: Counter[str]
) -> Indexed:
    """The test part is `test` if it is labelled, else `validation` if that is; labels below 0 are
    none. classes: None names them by the labels of the training part: 0, 1, ...

    left_out: of the reading of the files; is given the images of a part that is not used. Raises
    BadInput for a label that has no class.
    """
    train = parts["train"]
    test: EncodedImages | None = None
    test_role: Role = "test"
    # Without class names the training labels have to be 0..K-1 with none left out.
    classes = classes or tuple(str(i) for i in range(len(np.unique(train.labels))))
    _check_labels(train, len(classes))
    roles: tuple[Role, ...] = ("test", "validation")
    for role in roles:
        part = parts.get(role)
        if part is None:
            continue
        if (part.labels < 0).all():
            left_out[f"images of the {role} part, which has no labels"] += len(part)
        elif test is not None:
            left_out[f"images of the {role} part"] += len(part)
        else:
            _check_labels(part, len(classes))
            test, test_role = part, role
    return Indexed(classes, train, test, test_role, left_out)


def _check_labels(part: EncodedImages, classes: int) -> None:
    wrong = np.flatnonzero((part.labels < 0) | (part.labels >= classes))
    if len(wrong):
        raise BadInput(
            f"{part.name(wrong[0])}: label {part.labels[wrong[0]]} is out of range; "
            f"there are {classes} classes, so it must be 0..{classes - 1}"
        )
