"""A search in rounds: `mobilenas evolve --rounds`. Archs that it finds are trained stand-alone, and
what they reach tells the next round what to look for.

round-1/, ...          the search of each round, in a run folder of its own
round-1/trained.json   what its archs reached; null where a training failed
trained.json           of a search for one arch, the same of the arch that is predicted best
truth/                 the trainings, and truth.csv with what all of them reached
measured.jsonl         what was measured of archs in any round

Beside these the files of the last search, by what all trainings together predict.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from os.path import realpath
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from mobilenas.base.errors import BadInput, WorkFailed
from mobilenas.base.files import read_json, write_json
from mobilenas.base.settings import Record, Share, validated
from mobilenas.cost.model import flops_and_params
from mobilenas.evaluate.predictor import FEWEST, check_enough
from mobilenas.evaluate.truth import Truth
from mobilenas.runs import RunFolder
from mobilenas.runs.folder import is_run
from mobilenas.search import Result
from mobilenas.search.choose import choose_archs
from mobilenas.search.problem import PREDICTION, SCORE
from mobilenas.space import Arch, Space
from mobilenas.stages.evolve import Prepared, Search
from mobilenas.stages.measurements import MEASURED, Measurements
from mobilenas.stages.predicted import about_truth
from mobilenas.stages.train import Asked
from mobilenas.stages.trainings import create_trainings, train_archs
from mobilenas.train.config import NetworkConfig
from mobilenas.train.images import data_place
from mobilenas.train.networks import NetworkSettings
from mobilenas.train.supernets import SupernetSettings

TRAINED = "trained.json"

Train = Callable[[list[Arch]], Mapping[str, float | None]]

log = logging.getLogger(__name__)


class RoundSettings(Record):
    """rounds: how many times archs are trained, per_round of them each time; the first time at
    least as many as a prediction needs. config: of the trainings. inherit: whether they start from
    the weights of the supernet. threads: of each training.
    """

    rounds: int
    per_round: int
    config: NetworkConfig
    inherit: bool
    threads: int


@dataclass(frozen=True)
class RoundsAsked:
    """What the user asks of rounds; None where it is left out. preset, overrides: of
    `configs/train`.
    """

    rounds: int | None = None
    per_round: int | None = None
    preset: str | None = None
    overrides: tuple[str, ...] = ()
    inherit: bool = False

    def settings(self, search: Search, out: Path, *, resume: bool) -> RoundSettings | None:
        """All settings, those left out from the run in `out` if it is resumed; None without rounds.

        Raises BadInput.
        """
        known = _stored(out) if resume else None
        stored = None if known is None else validated(RoundSettings, known, out)
        if stored is None and self.rounds is None:
            if self != RoundsAsked():
                raise BadInput("--per-round, --preset, --set and --inherit go with --rounds")
            return None
        given: dict[str, Any] = {"rounds": self.rounds, "per_round": self.per_round}
        given = {name: value for name, value in given.items() if value is not None}
        if stored is None or self.preset or self.overrides:
            data = RunFolder.open(search.supernet, "supernet").read(SupernetSettings).data
            recipe = Asked(
                preset=self.preset, overrides=self.overrides, usual_preset="cifar10-quick"
            )
            config = recipe.config(data)
            given["config"] = config if stored is None else config.resuming(stored.config)
        if stored is not None:
            return stored.model_copy(update=given | ({"inherit": True} if self.inherit else {}))
        usual = {
            "per_round": FEWEST,
            "inherit": self.inherit,
            "threads": search.workers.threads_each(torch.get_num_threads()),
        }
        return RoundSettings(**(usual | given))


def _stored(out: Path) -> dict[str, Any] | None:
    """The rounds of the run in a folder as its run.json has them, None where there are none."""
    if not is_run(out, "evolve"):
        return None
    evaluator: dict[str, Any] = RunFolder.open(out, "evolve").settings.get("evaluator", {})
    return evaluator.get("rounds")


def run_rounds(search: Search, asked: RoundSettings, out: Path, *, resume: bool) -> Result:
    """Search, train, and search on; the trainings too are the workers'. Raises BadInput.

    search: by prediction, from what its truth file already has, if there is one.
    """
    most = search.population * search.generations
    if search.truth is None and most < FEWEST:
        raise BadInput(
            f"a search of {search.generations} generations of {search.population} finds {most} "
            f"archs at most; a prediction needs {FEWEST} to train: give a larger --population"
        )
    prepared = Prepared.of(search, out, by_truth=True, resume=resume)
    run = prepared.evaluator.run
    plan = NetworkSettings(
        space=run.space.to_dict(),
        arch="any",
        data=data_place(run.folder),
        # Its validation images are others than those that the supernet is measured on.
        seed=(run.settings.seed + 1) % 2**32,
        config=asked.config,
        inherit=realpath(search.supernet) if asked.inherit else None,
    )

    folder = out / "truth"
    if not folder.exists():  # a recipe that does not fit the data is known before the first search
        with TemporaryDirectory() as trial:
            create_trainings(
                Path(trial), [str(prepared.problem.cost_model.smallest("flops"))], plan
            )

    def train(archs: list[Arch]) -> dict[str, float | None]:
        names = list(map(str, archs))
        found = train_archs(folder, names, plan, workers=search.workers, threads=asked.threads)
        for name, end in found.failed.items():
            log.warning("%s is left out: its training failed twice (%s)", name, end)
        accuracy = {row["arch"]: row["accuracy"] for row in found.rows}
        return {name: accuracy.get(name) for name in names}

    return search_in_rounds(prepared, asked, train, out, resume=resume)


def round_folder(out: Path, number: int) -> Path:
    """Where the search of a round is, counted from 1 on."""
    return out / f"round-{number}"


def search_in_rounds(
    prepared: Prepared, asked: RoundSettings, train: Train, out: Path, *, resume: bool
) -> Result:
    """The rounds, whatever trains the archs.

    train: the accuracy (0..1) of each of some archs by its text form, None where there is none.
    """

    @contextmanager
    def measuring() -> Iterator[Measurements]:
        """Not while archs are trained: workers that wait would have the cores, on Ray all."""
        with prepared.workers() as workers:
            yield Measurements(workers, SCORE, out / MEASURED)

    truth = prepared.truth()
    rounds = _stored(out) if resume else None
    if rounds is None or validated(RoundSettings, rounds, out) != asked:
        rounds = asked.model_dump(mode="json")  # else as a release of before wrote them
    about = {"rounds": rounds} | (about_truth(truth) if truth else {})
    # The last search is started first: another one in this folder is refused before any work.
    prepared.start(out, about, resume=resume).announce()
    problem = prepared.problem
    known = _Known(prepared, train, truth, set(truth.archs) if truth else set(), [])
    left_out: dict[str, str] = {}  # by the search of any round
    for number in range(1, asked.rounds + 1):
        folder = round_folder(out, number)
        log.info("round %d of %d", number, asked.rounds)
        there = is_run(folder, "evolve")
        if known.truth is None:
            objectives = tuple(SCORE if x == PREDICTION else x for x in problem.objectives)
            scored = replace(prepared, problem=replace(problem, objectives=objectives))
            with measuring() as measurements:
                run = scored.start(folder, {}, resume=there)
                found = scored.explore(run, measurements)
            searched, count = scored.problem, max(FEWEST, asked.per_round)
        else:
            rests_on = about_truth(known.truth)
            with measuring() as measurements:
                run, found, more = prepared.by_prediction(
                    folder, known.truth, measurements, rests_on, resume=there
                )
                run.store(found, more, left_out=measurements.left_out)
            searched, count = problem, asked.per_round
        left_out |= run.left_out(measurements.left_out)
        known.train_more(folder, partial(choose_archs, searched, found.evaluations), count)
    assert known.truth is not None
    with measuring() as measurements:
        run, result, more = prepared.by_prediction(
            out, known.truth, measurements, about, resume=True
        )
    left_out |= run.left_out(measurements.left_out)
    if not problem.cost_objectives:
        before = known.reached()
        result = known.settled(out, result)
        # Not among those that the prediction was made from.
        last = known.reached().items() - before.items()
        more["truth"]["trained_last"] = {str(arch): accuracy for arch, accuracy in last}
    if known.failed:
        more["failed"] = known.failed
    if left_out:
        more["left_out"] = dict(sorted(left_out.items()))
    run.store(result, more)
    return result


@dataclass
class _Known:
    """What the trainings have shown so far.

    tried: every arch that was trained, or is of the truth file; failed: those whose training was.
    """

    prepared: Prepared
    train: Train
    truth: Truth | None
    tried: set[Any]
    failed: list[str]

    def train_more(
        self, folder: Path, choose: Callable[[int, set[Any]], list[Arch]], count: int
    ) -> None:
        """Train the `count` archs that are chosen, or take what `folder` has of them.

        Before anything can be predicted others take the place of those that failed. Raises BadInput
        where there are too few, and WorkFailed where all of the first failed, as for the same
        reason others would.
        """
        path = folder / TRAINED
        found: dict[str, float | None] = {}
        if path.exists():
            found |= validated(dict[str, Share | None], read_json(path), path)
        else:
            while count > 0 and (chosen := choose(count, self.tried)):
                if self.truth is None and not found and len(chosen) < FEWEST:
                    raise BadInput(
                        f"the search found networks within the budget: {len(chosen)}; a prediction "
                        f"needs {FEWEST} to train: give a larger budget or --population, and "
                        "another --out"
                    )
                self.tried.update(chosen)
                found |= self.train(chosen)
                reached = sum(accuracy is not None for accuracy in found.values())
                if self.truth is None and not reached:
                    raise WorkFailed(
                        f"all {len(found)} trainings of the first round failed twice; --resume "
                        "tries again"
                    )
                count = 0 if self.truth else FEWEST - reached
        truth = _joined(self.prepared, self.truth, found)
        if not path.exists():  # too few are not kept: a resume trains those that failed again
            write_json(path, found)
        self.tried.update(map(self._space.parse, found))
        self.failed += [arch for arch, accuracy in found.items() if accuracy is None]
        self.truth = truth

    def settled(self, folder: Path, result: Result) -> Result:
        """The result of a search for one arch: the best that was trained, once the arch that is
        predicted to be the best was trained too.

        The best prediction of many is mostly one that is too high (the optimizer's curse, Smith &
        Winkler 2006), so it has to prove itself. Where no arch within the limits has an accuracy,
        as all trainings failed, it is the answer all the same.
        """
        canonical = self._space.canonical
        predicted = canonical(result.front[0].arch)
        self.train_more(folder, lambda n, tried: [predicted][: predicted not in tried], 1)
        there = {canonical(each.arch): each for each in result.evaluations}
        reached = {arch: x for arch, x in self.reached().items() if arch in there}
        best = max(reached, key=lambda arch: reached[arch], default=predicted)
        return replace(result, front=[there[best]])

    def reached(self) -> dict[Any, float]:
        """The accuracy of each arch that was trained, or is of the truth file."""
        assert self.truth is not None
        return dict(zip(self.truth.archs, self.truth.accuracy.tolist(), strict=True))

    @property
    def _space(self) -> Space:
        space = self.prepared.evaluator.run.space
        assert isinstance(space, Space)
        return space


def _joined(prepared: Prepared, truth: Truth | None, trained: Mapping[str, float | None]) -> Truth:
    """A ground truth and what further archs of the space reached. Raises BadInput."""
    space = prepared.evaluator.run.space
    known = {} if truth is None else dict(zip(truth.archs, truth.accuracy.tolist(), strict=True))
    known |= {space.parse(arch): x for arch, x in trained.items() if x is not None}
    archs, accuracy = tuple(known), np.array(list(known.values()))
    check_enough(accuracy)
    source = "trained in rounds" if truth is None else truth.source
    return Truth(source, archs, accuracy, flops_and_params(space, archs)).in_order()
