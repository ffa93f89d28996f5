"""Search, train, search on: with stand-ins for the supernet and the trainings."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from additive import additive, naswot
from helpers import contents

from mobilenas.base.errors import BadInput, WorkFailed
from mobilenas.cli.options import check_all_done
from mobilenas.cost import CostModel
from mobilenas.cost.budget import Budget
from mobilenas.evaluate.truth import read_truth
from mobilenas.report.text import trained_accuracy
from mobilenas.search import Problem
from mobilenas.space import Arch, load_space
from mobilenas.stages.evolve import Prepared, Search
from mobilenas.stages.rounds import RoundSettings, search_in_rounds
from mobilenas.train.config import load_network_config

SPACE = load_space("digits")
COSTS = CostModel(SPACE)
LIMIT = {"flops": 4_500_000}
TRUE = additive(SPACE, seed=3)
ROUNDS = RoundSettings(
    rounds=2, per_round=3, config=load_network_config("digits", []), inherit=False, threads=1
)


class StandIn:
    """What a search asks of a supernet. Raises before more than `fail_at` archs are measured."""

    def __init__(self, fail_at: int | None = None) -> None:
        images = SimpleNamespace(data=SimpleNamespace(found=SimpleNamespace(to_dict=dict)))
        folder = SimpleNamespace(facts={})
        self.run = SimpleNamespace(space=SPACE, images=images, folder=folder)
        self.archs: list[Arch] = []
        self.fail_at = fail_at

    def __call__(self, archs: Sequence[Arch]) -> list[float]:
        if self.fail_at is not None and len(self.archs) + len(archs) > self.fail_at:
            raise KeyboardInterrupt
        self.archs += archs
        own, true = additive(SPACE)(archs), TRUE(archs)
        return [0.3 * x + 0.3 * y for x, y in zip(own, true, strict=True)]

    def naswot(self, archs: Sequence[Arch], seed: int) -> list[float]:
        return naswot(SPACE)(archs)

    def describe(self) -> dict[str, Any]:
        return {"weights": 1, "validation_images": 10}


class Failing(StandIn):
    """A supernet that fails with one arch."""

    def __init__(self, bad: str) -> None:
        super().__init__()
        self.bad = bad

    def __call__(self, archs: Sequence[Arch]) -> list[float]:
        if self.bad in map(str, archs):
            raise MemoryError
        return super().__call__(archs)


class Trainings:
    """What trains archs. Raises in the batch `fail_in`; the first `dying` of a batch come to
    nothing, `once`: of the first batch only.
    """

    def __init__(self, fail_in: int | None = None, dying: int = 0, once: bool = False) -> None:
        self.batches: list[list[Arch]] = []
        self.fail_in, self.dying, self.once = fail_in, dying, once

    def __call__(self, archs: list[Arch]) -> Mapping[str, float | None]:
        if self.fail_in == len(self.batches):
            raise KeyboardInterrupt
        self.batches.append(archs)
        reached: dict[str, float | None] = dict(zip(map(str, archs), TRUE(archs), strict=True))
        for arch in archs[: self.dying]:
            reached[str(arch)] = None
        if self.once:
            self.dying = 0
        return reached


def search(
    out: Path,
    evaluator: StandIn | None = None,
    train: Trainings | None = None,
    *,
    objectives: tuple[str, ...] = ("prediction", "flops"),
    truth: Path | None = None,
    rounds: RoundSettings = ROUNDS,
    limit: Mapping[str, float] = LIMIT,
    resume: bool = False,
) -> Any:
    asked = Search(out.parent / "supernet", Budget(), population=8, generations=4, truth=truth)
    problem = Problem(COSTS, objectives, limit)
    stand_in: Any = evaluator or StandIn()
    prepared = Prepared(asked, stand_in, problem)
    return search_in_rounds(prepared, rounds, train or Trainings(), out, resume=resume)


def lasting(folder: Path) -> dict[str, bytes]:
    """The content of all files, wherever the folder lies."""
    here = str(folder.parent).encode()
    return {name: content.replace(here, b"") for name, content in contents(folder).items()}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rounds") / "evolve"
    search(out)
    return out


def test_what_is_trained_is_found_before_and_known_after(tmp_path: Path) -> None:
    train, evaluator = Trainings(), StandIn()
    result = search(tmp_path / "evolve", evaluator, train)
    assert [len(batch) for batch in train.batches] == [8, 3]  # a prediction needs eight
    trained = [arch for batch in train.batches for arch in batch]
    assert len(set(trained)) == 11 and all(SPACE.canonical(arch) == arch for arch in trained)
    assert all(COSTS.flops(arch) <= LIMIT["flops"] for arch in trained)
    front = json.loads((tmp_path / "evolve" / "front.json").read_text())
    known = dict(zip(map(str, trained), TRUE(trained), strict=True))
    assert front["truth"]["accuracy"] == known
    assert set(front["prediction"]) == {"prediction", "supernet", "naswot", "flops", "params"}
    assert set(trained) <= {evaluation.arch for evaluation in result.evaluations}
    assert len(set(evaluator.archs)) == len(evaluator.archs)  # each is measured once
    best = max(result.front, key=lambda each: each.prediction)
    assert TRUE([best.arch])[0] > max(known.values()) - 0.1


def test_the_answer_to_a_search_for_one_arch_is_the_best_that_was_trained(tmp_path: Path) -> None:
    out, train = tmp_path / "evolve", Trainings()
    result = search(out, train=train, objectives=("prediction",))
    trained = {arch: TRUE([arch])[0] for batch in train.batches for arch in batch}
    assert [each.arch for each in result.front] == [max(trained, key=lambda arch: trained[arch])]
    # What is predicted to be the best is trained too, unless it was before.
    last = json.loads((out / "trained.json").read_text())
    best = max(result.evaluations, key=lambda each: (each.prediction, -each.costs["flops"]))
    assert SPACE.canonical(best.arch) in trained and set(last) <= {str(best.arch)}
    front = json.loads((out / "front.json").read_text())
    assert [row["arch"] for row in front["front"]] == [str(result.front[0].arch)]
    assert trained_accuracy(front) == {str(arch): x for arch, x in trained.items()}
    # Those that the prediction was made from.
    assert [len(batch) for batch in train.batches][:2] == [8, 3]
    assert len(front["truth"]["accuracy"]) == 11 and front["truth"]["trained_last"] == last
    before, again = lasting(out), Trainings()
    search(out, train=again, objectives=("prediction",), resume=True)
    assert not again.batches and lasting(out) == before


@pytest.mark.parametrize("stop", ["measuring 1", "measuring 2", "training 1", "training 2"])
def test_a_killed_search_goes_on_to_the_same_end(stop: str, tmp_path: Path, unbroken: Path) -> None:
    what, number = stop.split()
    out = tmp_path / "evolve"
    measured = len((unbroken / "measured.jsonl").read_text().splitlines())
    fail_at = {"1": 9, "2": measured - 3}[number] if what == "measuring" else None
    first = StandIn(fail_at)
    train = Trainings(fail_in=int(number) - 1 if what == "training" else None)
    with pytest.raises(KeyboardInterrupt):
        search(out, first, train)
    second, rest = StandIn(), Trainings()
    search(out, second, rest, resume=True)
    assert lasting(out) == lasting(unbroken)
    assert not {str(a) for a in first.archs} & {str(a) for a in second.archs}
    assert len(train.batches) + len(rest.batches) == 2


def test_a_training_that_fails_is_left_out_and_not_tried_again(tmp_path: Path) -> None:
    out = tmp_path / "evolve"
    train = Trainings(dying=3)
    more = ROUNDS.model_copy(update={"per_round": 99})  # all that a search finds
    few = {"flops": 2_300_000}  # so that every search finds mostly the same archs
    search(out, train=train, rounds=more, limit=few)
    known = json.loads((out / "front.json").read_text())["truth"]["accuracy"]
    failed = [str(arch) for batch in train.batches for arch in batch[:3]]
    trained = [str(arch) for batch in train.batches for arch in batch]
    assert len(set(trained)) == len(trained)  # in later rounds neither
    assert known and not set(failed) & set(known)
    again = Trainings()
    search(out, train=again, rounds=more, limit=few, resume=True)
    assert again.batches == []


def test_a_round_stays_as_it_is_when_a_later_one_leaves_a_network_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = load_space("macro")  # where networks have several names
    for name, value in (("SPACE", space), ("COSTS", CostModel(space)), ("TRUE", additive(space))):
        monkeypatch.setattr(f"{__name__}.{name}", value)
    more, limit = ROUNDS.model_copy(update={"per_round": 12}), {"flops": 60_000_000}
    search(tmp_path / "whole", rounds=more, limit=limit)
    first, second = (
        [json.loads(line)["arch"] for line in path.open()]
        for path in sorted((tmp_path / "whole").glob("round-*/evaluations.jsonl"))
    )
    canonical = {name: str(space.canonical(space.parse(name))) for name in (*first, *second)}
    later = {canonical[name] for name in second} - set(first)  # measured under this name only then
    alias = next(name for name in first if canonical[name] in later)
    out, failing = tmp_path / "evolve", Failing(canonical[alias])
    search(out, failing, rounds=more, limit=limit)
    before = lasting(out)
    assert "left_out" not in json.loads(before["round-1/front.json"])
    unmeasured = [json.loads(line) for line in before["measured.jsonl"].splitlines()]
    assert alias in {row["arch"] for row in unmeasured if "left_out" in row}
    again = Failing(canonical[alias])
    search(out, again, rounds=more, limit=limit, resume=True)
    assert lasting(out) == before and again.archs == []


def test_a_truth_file_is_where_it_starts_from(tmp_path: Path, unbroken: Path) -> None:
    known = json.loads((unbroken / "front.json").read_text())["truth"]["accuracy"]
    file = tmp_path / "truth.csv"
    file.write_text("arch,accuracy\n" + "".join(f"{k},{v}\n" for k, v in known.items()))
    assert len(read_truth(file, SPACE).archs) == 11
    train = Trainings()
    search(tmp_path / "evolve", train=train, truth=file)
    assert [len(batch) for batch in train.batches] == [3, 3]
    assert not {str(arch) for batch in train.batches for arch in batch} & set(known)


@pytest.mark.parametrize("change", [{"rounds": 3}, {"per_round": 4}, {"inherit": True}])
def test_other_rounds_are_refused_on_resume(
    change: dict[str, Any], tmp_path: Path, unbroken: Path
) -> None:
    before = contents(unbroken)
    with pytest.raises(BadInput, match="was started with another evaluator"):
        search(unbroken, rounds=ROUNDS.model_copy(update=change), resume=True)
    assert contents(unbroken) == before


def test_others_take_the_place_of_those_that_failed_in_the_first_round(tmp_path: Path) -> None:
    out, train = tmp_path / "evolve", Trainings(dying=3, once=True)
    search(out, train=train)
    assert [len(batch) for batch in train.batches] == [8, 3, 3]
    front = json.loads((out / "front.json").read_text())
    assert front["failed"] == [str(arch) for arch in train.batches[0][:3]]
    assert len(front["truth"]["accuracy"]) == 11
    with pytest.raises(WorkFailed, match="3 trainings failed twice: e"):
        check_all_done(front)


def test_fewer_networks_than_a_prediction_needs_are_refused_before_any_training(
    tmp_path: Path,
) -> None:
    train = Trainings()
    few = {"flops": COSTS.range("flops").minimum}
    with pytest.raises(BadInput, match=r"networks within the budget: 1.* needs 8"):
        search(tmp_path / "evolve", train=train, limit=few)
    assert train.batches == []


def test_where_all_is_trained_the_rounds_end(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    known = [SPACE.canonical(SPACE.sample(rng)) for _ in range(8)]
    cheap = {"flops": COSTS.range("flops").minimum}
    smallest = COSTS.smallest("flops")
    file = tmp_path / "truth.csv"
    known.append(smallest)
    rows = [f"{arch},{x}\n" for arch, x in zip(known, TRUE(known), strict=True)]
    file.write_text("arch,accuracy\n" + "".join(rows))
    train = Trainings()
    result = search(
        tmp_path / "evolve", train=train, truth=file, limit=cheap, objectives=("prediction",)
    )
    assert train.batches == [] and [each.arch for each in result.front] == [smallest]


def test_where_no_training_within_the_limits_succeeds_the_prediction_is_the_answer(
    tmp_path: Path,
) -> None:
    known = sorted(
        (SPACE.canonical(SPACE.sample(np.random.default_rng(seed))) for seed in range(40)),
        key=COSTS.flops,
    )[-8:]
    rows = [f"{arch},{x}\n" for arch, x in zip(known, TRUE(known), strict=True)]
    file = tmp_path / "truth.csv"
    file.write_text("arch,accuracy\n" + "".join(rows))
    assert min(map(COSTS.flops, known)) > LIMIT["flops"]
    result = search(
        tmp_path / "evolve", train=Trainings(dying=9), truth=file, objectives=("prediction",)
    )
    best = max(result.evaluations, key=lambda each: (each.prediction, -each.costs["flops"]))
    assert [each.arch for each in result.front] == [best.arch]


def test_the_order_of_a_truth_file_does_not_matter(tmp_path: Path, unbroken: Path) -> None:
    known = json.loads((unbroken / "front.json").read_text())["truth"]["accuracy"]
    lines = [f"{arch},{x}\n" for arch, x in known.items()]
    for name, rows in (("one", lines), ("other", lines[::-1])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "truth.csv").write_text("arch,accuracy\n" + "".join(rows))
        search(tmp_path / name / "evolve", truth=tmp_path / name / "truth.csv")
    one, other = (lasting(tmp_path / name / "evolve") for name in ("one", "other"))
    assert one["evaluations.jsonl"] == other["evaluations.jsonl"]


def test_too_few_that_reached_anything_are_refused_and_trained_again(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="5 stand-alone accuracies are too few"):
        search(tmp_path / "evolve", train=Trainings(dying=3))
    assert not (tmp_path / "evolve" / "round-1" / "trained.json").exists()
    search(tmp_path / "evolve", resume=True)


def test_where_all_first_trainings_fail_no_others_are_tried(tmp_path: Path) -> None:
    train = Trainings(dying=8)
    with pytest.raises(WorkFailed, match="all 8 trainings of the first round failed twice"):
        search(tmp_path / "evolve", train=train)
    assert len(train.batches) == 1
    again = Trainings()
    search(tmp_path / "evolve", train=again, resume=True)
    assert again.batches[0] == train.batches[0]


def test_what_any_round_left_out_is_named_at_the_end(tmp_path: Path, unbroken: Path) -> None:
    lines = (unbroken / "round-1" / "evaluations.jsonl").read_text().splitlines()
    later = (unbroken / "evaluations.jsonl").read_text()
    names = [json.loads(line)["arch"] for line in lines]
    bad = next(name for name in names if f'"{name}"' not in later)
    search(tmp_path / "evolve", Failing(bad))
    front = json.loads((tmp_path / "evolve" / "front.json").read_text())
    assert bad in front["left_out"]
    with pytest.raises(WorkFailed, match="could not be measured"):
        check_all_done(front)
