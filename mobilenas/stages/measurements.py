"""What the supernet says of the archs of a search, or of several searches that share it.

measured.jsonl   one line an arch, in the order in which they were done, synced after each group:
                 accuracy and maybe NASWOT, or `left_out` with the reason
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobilenas.base.errors import BadInput
from mobilenas.base.files import append_jsonl, read_jsonl
from mobilenas.base.settings import Number, Record, Share
from mobilenas.evaluate import workers as work
from mobilenas.search import Measured
from mobilenas.search.problem import QUALITIES, SCORE
from mobilenas.search.replay import GROUP
from mobilenas.space import AnyArch
from mobilenas.workers import Workers, even_groups

MEASURED = "measured.jsonl"

Floats = NDArray[np.float64]


class _Measurement(Record):
    """A line of the file."""

    arch: str
    accuracy: Share | None = None
    naswot: Number | None = None
    left_out: str | None = None


class Measurements:
    """`measure(archs)`: what a search by accuracy or by score needs, each arch measured once.

    quality: ACCURACY, or SCORE for NASWOT too. path: what has been measured, by this command or by
    one that was killed. left_out: archs that could not be measured, and why.
    Raises BadInput for a damaged file.
    """

    def __init__(self, workers: Workers, quality: str, path: Path) -> None:
        self._workers, self._path = workers, path
        self._names = QUALITIES[quality]
        self._what = work.SCORE if quality == SCORE else work.ACCURACY
        self._known: dict[str, tuple[float, ...]] = {}
        self.left_out: dict[str, str] = {}
        for row in read_jsonl(path, _Measurement):
            if row.left_out is not None:
                self.left_out[row.arch] = row.left_out
            else:
                figures = tuple(getattr(row, name) for name in self._names)
                if None in figures:
                    raise BadInput(
                        f"{path}: {row.arch}: needs {' and '.join(self._names)}, or left_out"
                    )
                self._known[row.arch] = figures

    @property
    def at_once(self) -> int | None:
        """Archs that the workers should be given together; None for as many as there are."""
        return GROUP if self._workers.count == 1 else None

    def __call__(self, archs: Sequence[AnyArch]) -> list[Measured | None]:
        """None for an arch that is left out."""
        self._measure(archs)
        values = (self._known.get(str(arch)) for arch in archs)
        return [None if row is None else Measured(*row) for row in values]

    def figures(self, archs: Sequence[AnyArch]) -> Floats:
        """The same as (archs, 1 or 2), NaN for an arch that is left out."""
        self._measure(archs)
        nothing = (np.nan,) * len(self._names)
        return np.array([self._known.get(str(arch), nothing) for arch in archs]).reshape(
            -1, len(self._names)
        )

    def leave_out_alias(self, alias: AnyArch, arch: AnyArch) -> None:
        """Leave out another name of an arch that is left out, as a search that is resumed looks for
        the names that it proposed.
        """
        name = str(alias)
        if name not in self.left_out:
            self.left_out[name] = self.left_out[str(arch)]
            append_jsonl(self._path, [{"arch": name, "left_out": self.left_out[name]}])

    def _measure(self, archs: Sequence[AnyArch]) -> None:
        asked = sorted({str(arch) for arch in archs} - self._known.keys() - self.left_out.keys())
        for outcome in self._workers(self._what, even_groups(asked, GROUP, self._workers.count)):
            if outcome.results is None:
                rows = [{"arch": arch, "left_out": outcome.why} for arch in outcome.items]
                self.left_out |= dict.fromkeys(outcome.items, outcome.why)
            else:
                found = dict(zip(outcome.items, outcome.results, strict=True))
                rows = [{"arch": arch, **figures} for arch, figures in found.items()]
                self._known |= {
                    arch: tuple(figures[name] for name in self._names)
                    for arch, figures in found.items()
                }
            append_jsonl(self._path, rows)
