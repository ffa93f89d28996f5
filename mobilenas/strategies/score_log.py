"""What a supernet was measured to be worth without each of some candidates, on disk."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from mobilenas.base.errors import BadInput
from mobilenas.base.files import append_jsonl, read_jsonl
from mobilenas.base.settings import Record

log = logging.getLogger(__name__)


class Scores(Record):
    """A line: mean loss and accuracy without each of some candidates of a choice."""

    choice: str
    without: list[str]
    loss: list[float]
    accuracy: list[float]


class ScoreLog:
    """Scores in the order of their measurement. A search that goes on after a kill is the same, so
    what is in the file is not measured again. Raises BadInput for a damaged one.

    path: without one nothing is written. writes: whether this process does. taken: lines that the
    search has behind it.
    """

    def __init__(self, path: Path | None = None, writes: bool = True) -> None:
        self.path, self.writes = path, writes
        self.rows: list[Scores] = read_jsonl(path, Scores) if path else []
        self.taken = 0

    def take(
        self, choice: str, names: list[str], measure: Callable[[], Sequence[tuple[float, float]]]
    ) -> Scores:
        """The next scores. measure: loss and accuracy without each of some candidates. Raises
        BadInput where the file has others.
        """
        if self.taken == len(self.rows):
            pairs = measure()
            loss, accuracy = (list(values) for values in zip(*pairs, strict=True))
            self.rows.append(Scores(choice=choice, without=names, loss=loss, accuracy=accuracy))
            if self.path is not None and self.writes:
                append_jsonl(self.path, [self.rows[-1].model_dump()])
            each = zip(names, pairs, strict=True)
            text = ", ".join(f"{name} {x:.3f} ({100 * y:.1f} %)" for name, (x, y) in each)
            log.info("%s: loss (accuracy) without %s", choice, text)
        row = self.rows[self.taken]
        self.taken += 1
        if (row.choice, row.without) != (choice, names):
            raise BadInput(
                f"{self.path} line {self.taken} is of {row.choice}, where {choice} is measured: it "
                "is of another search"
            )
        return row
