"""What was found in a data set, in numbers: one line for people, plain data for files."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

_NAMES = 5  # of classes that the line tells


@dataclass(frozen=True)
class Found:
    """The numbers of images that are used, the classes, and the files that are not used.

    test_part: which part of the data is used for testing. left_out: what -> how many. notes: what
    else a user should know, in words. damaged: of `damaged=skip`, the rows of the images of each
    part that are left out.
    """

    source: str
    train_images: int
    test_images: int
    test_part: str
    classes: tuple[str, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    damaged: Mapping[str, list[int]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self) | {"classes": list(self.classes), "notes": list(self.notes)}

    def __str__(self) -> str:
        """One line: photos: 48 training images of 3 classes (a, b, c), 24 test images."""
        names = ", ".join(self.classes[:_NAMES]) + (", ..." if len(self.classes) > _NAMES else "")
        test = f"{self.test_images:,} test images" if self.test_images else "no test images"
        if self.test_images and self.test_part != "test":
            test += f" (the {self.test_part} part)"
        line = f"{self.source}: {self.train_images:,} training images of {len(self.classes):,} "
        line += f"classes ({names}), {test}"
        if self.left_out:
            kinds = ", ".join(counted(n, what) for what, n in sorted(self.left_out.items()))
            line += f"; left out: {kinds}"
        return "; ".join([line, *self.notes])


def counted(number: int, what: str) -> str:
    """A number and what it counts, whose first `images`, `files` or `links` is a plural."""
    if number == 1:
        what = re.sub(r"\b(image|file|link)s\b", r"\1", what, count=1)
    return f"{number:,} {what}"
