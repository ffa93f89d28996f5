"""What mixtures and archs were measured to be worth in a supernet, on disk."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import model_validator

from mobilenas.base.errors import BadInput
from mobilenas.base.files import append_jsonl, read_jsonl, write_jsonl
from mobilenas.base.settings import Record
from mobilenas.nn.views import Views
from mobilenas.strategies.search_step import SearchStep


class Scores(Record):
    """A line: mean loss and accuracy without each of some candidates of a choice, without more and
    more of an order, or of some archs. spent: as of a step.
    """

    choice: str
    without: list[str]
    loss: list[float]
    accuracy: list[float]
    spent: float

    @model_validator(mode="after")
    def _of_one_length(self) -> "Scores":
        if not len(self.without) == len(self.loss) == len(self.accuracy) > 0:
            raise ValueError("without, loss and accuracy must have one length, 1 or more")
        return self


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
        self,
        step: SearchStep,
        choice: str,
        names: list[str],
        several: Sequence[Views],
        batches: range,
        least: float = 0.0,
    ) -> Scores:
        """The next scores: those of several mixtures, each without what a name says, as
        `SearchStep.scores` measures them, fewer where it stops. Raises BadInput where the file has
        others.
        """
        before = step.spent
        if self.taken == len(self.rows):
            step.spent = 0.0
            loss, accuracy = zip(*step.scores(several, batches, least), strict=True)
            row = Scores(
                choice=choice,
                without=names[: len(loss)],
                loss=[*loss],
                accuracy=[*accuracy],
                spent=step.spent,
            )
            self.rows.append(row)
            if self.path is not None and self.writes:
                append_jsonl(self.path, [row.model_dump()])
        row = self.rows[self.taken]
        step.spent = before + row.spent
        self.taken += 1
        if not _is_of(row, choice, names):
            raise BadInput(
                f"{self.path} line {self.taken} is of {row.choice}, where {choice} is measured: it "
                "is of another search"
            )
        if not least and len(row.without) < len(names):
            raise BadInput(
                f"{self.path} line {self.taken} has {len(row.without)} scores of {choice}, where "
                f"there must be {len(names)}: it is damaged"
            )
        return row

    def drop_others(self, choice: str, names: list[str]) -> None:
        """Take away the next line, and all behind it, where it is of others than these."""
        if self.taken < len(self.rows) and not _is_of(self.rows[self.taken], choice, names):
            del self.rows[self.taken :]
            if self.path is not None and self.writes:
                write_jsonl(self.path, [row.model_dump() for row in self.rows])


def _is_of(row: Scores, choice: str, names: list[str]) -> bool:
    return (row.choice, row.without) == (choice, names[: len(row.without)])
