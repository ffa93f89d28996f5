"""The command `search`: what it leaves, and that a kill changes nothing."""

import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest
import torch
from helpers import ALONE, Call, Job, check_refused
from searched import BUDGET, CELLS, CHEAPER, SMALL, SPACE, asked_for, suited
from tables import made_up_table

from mobilenas.base.randomness import Stream, generator
from mobilenas.cost import CostModel
from mobilenas.cost.edge_model import EdgeCellCosts, costs_of
from mobilenas.nn.saved import load_network
from mobilenas.space import EdgeCellSpace, load_listed_space, load_space, space_from_dict
from mobilenas.stages import search as stage
from mobilenas.strategies.methods import METHODS
from mobilenas.strategies.search_step import SearchStep


def lasting(folder: Path) -> dict[str, bytes]:
    names = ("run.json", "splits.json", "log.jsonl", "front.json", "network/model.safetensors")
    return {name: (folder / name).read_bytes() for name in names if (folder / name).exists()}


@pytest.mark.parametrize("name", METHODS)
def test_an_arch_within_the_budget_that_training_takes(
    name: str, tmp_path: Path, call: Call
) -> None:
    out = tmp_path / "search"
    done = call(*asked_for(name, tmp_path, call), f"--out={out}", "--json")
    assert done.code == 0, done.err
    printed = json.loads(done.out)
    (row,) = printed["front"]
    costs = costs_of(load_listed_space(suited(name, SPACE)))
    arch = costs.space.parse(row["arch"])
    assert row["flops"] == costs.of(arch)["flops"] <= costs.range("flops").median  # type: ignore[arg-type]
    found = json.loads((out / "front.json").read_text())
    assert found["front"] == [row]
    assert all(sum(p) == pytest.approx(1) for p in found["probabilities"])
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 10 and rows[-1]["epoch"] == 1
    assert rows[-1]["passes"] == pytest.approx(printed["passes"])
    assert {"entropy", "skip", "expected_flops", "arch", "loss", "lr"} <= rows[-1].keys()
    assert rows[-1]["arch"] == row["arch"]  # which meets the budget
    assert ("held_loss" in rows[-1]) == (name not in ("dropnas", "shapley", "svge"))
    assert rows[-1]["skips"] == sum(row["arch"].count(word) for word in ("id", "skip_connect"))
    assert ("together" in done.err) == (
        name not in ("shapley", "zarts", "svge")
    )  # rate times steps
    if name in ("pc-darts", "ista"):
        assert "no network with the weights of the supernet: " in done.err
        refused = call("export", "--onnx", f"--run={out}")
        check_refused(refused, "no network with the weights of its supernet", "train --search")
        start = f"--weights={out / 'network'}"
        refused = call("train", start, *ALONE, f"--out={tmp_path / 'tuned'}")
        check_refused(refused, "no saved network", str(out / "network"))
        return
    network, info = load_network(out / "network")
    assert str(network.arch) == row["arch"] and info.classes == tuple("0123456789")
    if name != "gdas":
        return
    exported = call(
        "export", "--onnx", f"--run={out}", f"--out={tmp_path / 'model.onnx'}", "--json"
    )
    assert exported.code == 0, exported.err
    report = json.loads(exported.out)
    assert report["metadata"]["top1_accuracy_on"] == "355 test images"
    evaluated = json.loads(call("eval", tmp_path / "model.onnx", "--data=digits", "--json").out)
    assert evaluated["top1"] == pytest.approx(float(report["metadata"]["top1_accuracy"]), abs=1e-9)
    for folder, start in (("train", f"--search={out}"), ("tuned", f"--weights={out / 'network'}")):
        trained = call("train", start, *ALONE, f"--out={tmp_path / folder}", "--json")
        assert trained.code == 0, trained.err
        result = json.loads(trained.out)
        assert (result["arch"], result["flops"]) == (row["arch"], row["flops"])
    settings = json.loads((tmp_path / "train" / "run.json").read_text())["settings"]
    assert space_from_dict(settings["space"]).name == SPACE


PATHS = "digits:width=0.5,resolution=8"  # several a block


@pytest.mark.parametrize(
    "name, space",
    [
        *((name, None) for name in METHODS),
        ("mergenas", f"{PATHS},path_activation=after_sum"),
        ("rome", PATHS),
    ],
)
def test_a_killed_search_goes_on_to_the_same_bytes(
    name: str, space: str | None, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole"
    if space is None:
        asked = asked_for(name, tmp_path, call)
    else:
        cheaper = CHEAPER.get(name, [])
        asked = ["search", f"--strategy={name}", *SMALL, *cheaper, f"--space={space}"]
    assert call(*asked, f"--out={whole}").code == 0
    # In the first part of a step, before the weights move, and among several samples or terms.
    several = [("loss", 4)] if name in ("rome", "zarts") else []
    if name == "idarts":  # within its series too
        several = [("loss", 4), ("_joint", 3)]
    for place, call_number in [("loss", 1), ("train", 1), *several]:
        killed = tmp_path / f"{place}-{call_number}"
        with monkeypatch.context() as patch:
            patch.setattr(SearchStep, place, dying(getattr(SearchStep, place), 7, call_number))
            assert call(*asked, f"--out={killed}").code != 0
        assert not (killed / "front.json").exists()
        assert call("search", "--resume", f"--out={killed}").code == 0
        assert lasting(whole) == lasting(killed)
        first, second = (
            torch.load(folder / "checkpoint.pt", weights_only=True) for folder in (whole, killed)
        )
        if space is not None:
            assert (whole / "network" / "model.safetensors").exists()
        pairs = zip(*(x["task"]["strategy"]["parameters"] for x in (first, second)), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
        assert all(torch.equal(x, second["module"][key]) for key, x in first["module"].items())


@pytest.mark.parametrize("number, place", [(2, "loss"), (3, "train"), (2, "made"), (3, "made")])
def test_a_search_of_stages_goes_on_in_the_right_one(
    number: int, place: str, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["search", "--strategy=pdarts", *SMALL, BUDGET, "--set=weights_first=0"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert call(*asked, f"--out={whole}").code == 0
    with monkeypatch.context() as patch:
        if place == "made":  # between two stages
            patch.setattr(stage, "SearchTask", dying_at_call(stage.SearchTask, number))
        else:
            method = getattr(SearchStep, place)
            patch.setattr(SearchStep, place, dying(method, at=7, stage=number - 1))
        assert call(*asked, f"--out={killed}").code != 0
    done = [n for n in (1, 2) if (killed / f"stage-{n}" / "kept.json").exists()]
    assert done == [*range(1, number)]
    assert call("search", "--resume", f"--out={killed}").code == 0
    assert lasting(whole) == lasting(killed)
    for n in (1, 2):
        logs = [(folder / f"stage-{n}" / "log.jsonl").read_bytes() for folder in (whole, killed)]
        kept = [
            json.loads((folder / f"stage-{n}/kept.json").read_text()) for folder in (whole, killed)
        ]
        assert logs[0] == logs[1] and kept[0]["kept"] == kept[1]["kept"]


def test_each_stage_starts_with_new_weights_and_parameters(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they are built from its seed, which is that of the search only in the first."""
    fresh = []
    fit = stage.fit

    def noted(folder: Any, task: Any, trainer: Any, seconds: float) -> None:
        kind, config = type(task.strategy), task.strategy.config
        start = torch.Generator().manual_seed(trainer.seed)
        module = kind.supernet(task.searchable, config, start).state_dict()
        strategy = kind(task.searchable.choices, config, trainer.seed)
        found = trainer.module.state_dict()
        assert all(torch.equal(value, module[key]) for key, value in found.items())
        pairs = zip(task.strategy.parameters, strategy.parameters, strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
        assert not task.strategy.optimizer.state and not trainer.optimizer.state
        fresh.append((trainer.seed, module["classifier.weight"]))
        fit(folder, task, trainer, seconds)

    monkeypatch.setattr(stage, "fit", noted)
    asked = ["search", "--strategy=pdarts", *SMALL, "--seed=3", f"--out={tmp_path / 'search'}"]
    assert call(*asked).code == 0
    seeds = [3, *(int(generator(3, Stream.STAGE, n).integers(1 << 32)) for n in (1, 2))]
    assert [seed for seed, _ in fresh] == seeds
    assert not any(torch.equal(a, b) for (_, a), (_, b) in pairwise(fresh))


@pytest.mark.parametrize(
    "name, file",
    [
        ("darts-pt", "projections.jsonl"),
        ("shapley", "contributions.jsonl"),
        ("svge", "labels.jsonl"),
    ],
)
def test_a_killed_search_goes_on_with_what_was_measured(
    name: str, file: str, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asked_for(name, tmp_path, call)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert call(*asked, f"--out={whole}").code == 0
    measured: list[int] = []
    scores = SearchStep.scores

    def counting(step: SearchStep, *rest: Any) -> Any:
        measured.append(step.n)
        if len(measured) == 4:
            raise KeyboardInterrupt
        return scores(step, *rest)

    monkeypatch.setattr(SearchStep, "scores", counting)
    no_checkpoint = "--set=checkpoint_seconds=1000"  # all steps are made again, scores are not
    assert call(*asked, no_checkpoint, f"--out={killed}").code != 0
    rmtree(tmp_path / "parent", ignore_errors=True)  # it is not needed again
    again = call("search", "--resume", f"--out={killed}")
    assert again.code == 0, again.err
    rows = (killed / file).read_bytes()
    assert rows == (whole / file).read_bytes()
    assert len(measured) - 1 == len(rows.splitlines())  # the one that was interrupted, twice
    for same in ("log.jsonl", "splits.json"):
        assert (killed / same).read_bytes() == (whole / same).read_bytes()
    fronts = [json.loads((folder / "front.json").read_text()) for folder in (whole, killed)]
    assert fronts[0]["front"] == fronts[1]["front"]


def dying_at_call(made: Callable[..., Any], number: int) -> Callable[..., Any]:
    """What is interrupted when it is called that many times."""
    calls = iter(range(1, number + 1))

    def dies(*arguments: Any) -> Any:
        if next(calls) == number:
            raise KeyboardInterrupt
        return made(*arguments)

    return dies


def dying(
    method: Callable[..., Any], at: int, number: int = 1, stage: int = 0
) -> Callable[..., Any]:
    """A method of a step that is interrupted in step `at` of a stage, when it is called for the
    number-th time there.
    """
    calls = 0

    def dies(step: SearchStep, *rest: Any, **more: Any) -> Any:
        nonlocal calls
        calls += step.n == at and step.searchable.stage == stage
        if calls == number:
            raise KeyboardInterrupt
        return method(step, *rest, **more)

    return dies


def test_a_finished_search_stays_as_it_is(tmp_path: Path, call: Call) -> None:
    out = tmp_path / "search"
    assert call("search", *SMALL, f"--out={out}").code == 0
    before = lasting(out)
    assert call("search", "--resume", f"--out={out}").code == 0
    assert lasting(out) == before
    check_refused(call("search", *SMALL, f"--out={out}"), "already holds a run")


def test_a_loss_that_is_no_number_costs_one_step(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out, loss = tmp_path / "whole", tmp_path / "search", SearchStep.loss
    assert call("search", *SMALL, f"--out={whole}").code == 0
    with monkeypatch.context() as patch:
        patch.setattr(SearchStep, "loss", lambda s, *x, **y: loss(s, *x, **y) / (s.n != 7))
        done = call("search", *SMALL, f"--out={out}")
    assert done.code == 1 and "step 7: " in done.err.splitlines()[-1]
    assert call("search", "--resume", f"--out={out}").code == 0
    assert lasting(whole) == lasting(out)


def test_memory_is_a_limit_too(tmp_path: Path, call: Call) -> None:
    costs = CostModel(load_space(SPACE))
    least = costs.range("memory").minimum
    out = tmp_path / "search"
    done = call("search", *SMALL, BUDGET, f"--memory={least}", f"--out={out}", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["front"][0]["memory"] == least


def test_latency_is_a_limit_too_and_its_table_may_not_change(tmp_path: Path, call: Call) -> None:
    file, out = tmp_path / "made-up.json", tmp_path / "search"
    file.write_text(made_up_table(load_space(SPACE), wobble=0.5).model_dump_json())
    done = call("search", *SMALL, f"--latency=200us@{file}", f"--out={out}", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["front"][0]["latency_ms@made-up"] <= 0.2
    last = json.loads((out / "log.jsonl").read_text().splitlines()[-1])
    assert last["expected_latency_ms@made-up"] > 0
    assert call("search", "--resume", f"--out={out}").code == 0
    check_refused(call("search", "--resume", f"--latency=300us@{file}", f"--out={out}"), "limits")
    file.write_text(made_up_table(load_space(SPACE), wobble=0.6).model_dump_json())
    check_refused(call("search", "--resume", f"--out={out}"), "latency table made-up is not")


def test_a_supernet_that_does_not_fit_is_not_built(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mobilenas.cost.memory.os.sysconf", lambda name: 1000)
    check_refused(call("search", *SMALL, f"--out={tmp_path / 'search'}"), "supernet of", "GiB")


def test_another_search_is_not_resumed(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch, job: Job
) -> None:
    out = tmp_path / "search"
    with monkeypatch.context() as patch:
        patch.setattr(stage, "run_search", lambda *_: {"front": [], "passes": 0, "standing": {}})
        call("search", *SMALL, BUDGET, f"--out={out}", "--json")
    before = (out / "run.json").read_bytes()
    for flags, words in (
        (["--strategy=darts"], ["strategy", "gdas", "darts"]),
        (["--space=digits"], ["space"]),
        (["--flops=0.3M"], ["limits.flops"]),
        (["--seed=1"], ["seed"]),
        (["--preset=cpu", "--set=arch_lr=0.1"], ["config"]),
        (["--data=cifar10"], ["data"]),
    ):
        check_refused(call("search", "--resume", f"--out={out}", *flags), *words)
    assert (out / "run.json").read_bytes() == before
    check_refused(call("search", "--resume", f"--out={job.search}"), "holds a search", "search")
    check_refused(call("export", "--onnx", f"--run={out}"), "is not finished", "search --resume")


@pytest.mark.parametrize("strategy", ["gdas", "rome", "ista"])
@pytest.mark.parametrize("space, budget", [("nb201", ["--params=5k"]), ("darts", [])])
def test_cells_are_searched(
    strategy: str, space: str, budget: list[str], tmp_path: Path, call: Call
) -> None:
    out = tmp_path / "search"
    budget = [*budget, f"--strategy={strategy}", *CHEAPER.get(strategy, [])]
    narrow = f"--space={space}:channels=4,cells={1 if space == 'nb201' else 3},resolution=8"
    done = call("search", *SMALL, narrow, *budget, f"--out={out}", "--json")
    assert done.code == 0, done.err
    (row,) = json.loads(done.out)["front"]
    searched = load_listed_space(narrow.removeprefix("--space="))
    assert isinstance(searched, EdgeCellSpace)
    costs = EdgeCellCosts(searched)
    assert costs.of(searched.parse(row["arch"])) == {k: row[k] for k in ("flops", "params")}
    assert space == "darts" or row["params"] <= 5000


@pytest.fixture
def tf32() -> Iterator[None]:
    """Allowed throughout, as users may have it."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = True
    yield
    cudnn.allow_tf32, matmul.allow_tf32 = before


@pytest.mark.parametrize(
    "strategy, settings, is_exact",
    [
        ("darts", [], False),
        ("darts", ["order=2"], True),
        ("idarts", [], True),
        ("lambda-darts", [], True),
    ],
)
def test_small_differences_are_of_float32_and_never_of_tf32(
    strategy: str,
    settings: list[str],
    is_exact: bool,
    tmp_path: Path,
    call: Call,
    monkeypatch: pytest.MonkeyPatch,
    tf32: None,
) -> None:
    used = []
    fit, cudnn, matmul = stage.fit, torch.backends.cudnn, torch.backends.cuda.matmul

    def noted(folder: Any, task: Any, trainer: Any, seconds: float) -> None:
        used.append((trainer.config.precision, cudnn.allow_tf32, matmul.allow_tf32))
        fit(folder, task, trainer, seconds)

    monkeypatch.setattr(stage, "fit", noted)
    out, own = f"--out={tmp_path / 'search'}", f"--strategy={strategy}"
    asked = [*SMALL, f"--space={CELLS}", own, *(f"--set={setting}" for setting in settings)]
    assert call("search", *asked, out).code == 0
    assert used == [("fp32", False, False) if is_exact else ("auto", True, True)]
    assert cudnn.allow_tf32 and matmul.allow_tf32
