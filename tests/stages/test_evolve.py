"""The stage `evolve`: what a search leaves in its folder, and what a resume compares."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from additive import Counting
from helpers import contents, is_written_last

from mobilenas.base.errors import BadInput, InfeasibleBudget
from mobilenas.cost import CostModel
from mobilenas.runs import RunFolder
from mobilenas.search import NSGA2Search, Problem, Result
from mobilenas.search.front import read_search
from mobilenas.search.replay import Measure
from mobilenas.space import Space, load_space
from mobilenas.stages import search_run
from mobilenas.stages.search_run import SearchRun

SPACE = load_space("macro")
LIMITS, MEASURED = {"flops": 60_000_000}, {"weights": 7}
PARENTS = {"supernet": "/runs/supernet"}
FILES = {"run.json", "evaluations.jsonl", "front.json", "history.csv", "front.png"}
# A search as the release that wrote search.json in place of run.json would have left it: its files,
# with the archs of today's NSGA-II, which goes other ways than that release's.
EARLIER = Path(__file__).parent / "earlier_search"


def search(
    out: Path,
    measure: Measure | None = None,
    *,
    space: Space = SPACE,
    objectives: tuple[str, ...] = ("accuracy", "flops"),
    limits: dict[str, float] = LIMITS,
    evaluator: dict[str, Any] = MEASURED,
    parents: dict[str, str] = PARENTS,
    resume: bool = False,
    **settings: Any,
) -> Result:
    problem = Problem(CostModel(space), objectives, limits)
    found = NSGA2Search(problem, **{"population": 6, "generations": 4, "seed": 3} | settings)
    measure = measure or Counting(space, by_score="score" in objectives)
    return SearchRun.start(found, out, evaluator=evaluator, parents=parents, resume=resume).explore(
        measure
    )


def interrupt(out: Path, **settings: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        search(out, Counting(SPACE, fail_at=12), **settings)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken")
    search(out)
    return out


def test_files_of_a_search(tmp_path: Path) -> None:
    result = search(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == FILES
    assert is_written_last(tmp_path / "front.json")
    rows = [e.row() for e in result.evaluations]
    assert [json.loads(line) for line in (tmp_path / "evaluations.jsonl").open()] == rows
    table = (tmp_path / "history.csv").read_text().splitlines()
    assert table[0] == ",".join(rows[0])
    assert table[1:] == [",".join(map(str, row.values())) for row in rows]
    stored = json.loads((tmp_path / "front.json").read_text())
    assert stored["front"] == [e.row() for e in result.front]
    assert stored["evaluations"] == len(rows)
    assert stored["ranges"]["flops"]["minimum"] == CostModel(SPACE).range().minimum
    run = RunFolder.open(tmp_path, "evolve")
    assert run.is_finished
    assert run.parents == PARENTS
    assert stored["settings"] == run.settings | {"places": PARENTS | {"latency_tables": {}}}
    assert run.settings["space"] == SPACE.to_dict()


def test_nothing_is_printed_but_progress(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    count = len(search(tmp_path, limits={}).evaluations)
    out, err = capfd.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith(f"evolve 100%  generation 4, {count} archs, best ")


def test_a_search_makes_what_it_made_before(unbroken: Path) -> None:
    for name in ("evaluations.jsonl", "front.json"):
        assert (unbroken / name).read_bytes() == (EARLIER / name).read_bytes()


@pytest.mark.parametrize("lines", [0, 5, 14, 23])
def test_files_of_the_release_before_resume(lines: int, tmp_path: Path, unbroken: Path) -> None:
    shutil.copy(EARLIER / "search.json", tmp_path)
    evaluations = (EARLIER / "evaluations.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "evaluations.jsonl").write_text("".join(evaluations[:lines]))
    count = Counting(SPACE)
    search(tmp_path, count, resume=True)
    assert len(count.archs) == len(evaluations) - lines
    for name in FILES - {"run.json"}:
        assert (tmp_path / name).read_bytes() == (unbroken / name).read_bytes()


@pytest.mark.parametrize("missing", ["resolution", "max_evaluations", "space.path_activation"])
def test_a_search_from_before_a_key_was_added_resumes(missing: str, tmp_path: Path) -> None:
    stored = json.loads((EARLIER / "search.json").read_text())
    *above, key = missing.split(".")
    del (stored[above[0]] if above else stored)[key]
    (tmp_path / "search.json").write_text(json.dumps(stored))
    search(tmp_path, resume=True)
    assert (tmp_path / "front.json").read_bytes() == (EARLIER / "front.json").read_bytes()


@pytest.mark.parametrize("folder", ["new", "earlier"])
def test_a_finished_search_is_read(folder: str, unbroken: Path) -> None:
    found = read_search({"new": unbroken, "earlier": EARLIER}[folder])
    assert (found.cost, found.supernet) == ("flops", Path("/runs/supernet"))
    assert found.pick("best") == found.front[-1]["arch"]


def test_a_search_that_raised_resumes_to_the_same_bytes(tmp_path: Path, unbroken: Path) -> None:
    interrupt(tmp_path)
    assert not (tmp_path / "front.json").exists()
    search(tmp_path, resume=True)
    assert contents(tmp_path) == contents(unbroken)
    search(tmp_path, Counting(SPACE, fail_at=0), resume=True)
    assert contents(tmp_path) == contents(unbroken)


def test_a_resume_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no run to resume"):
        search(tmp_path / "none", resume=True)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", 4),
        ("population", 12),
        ("generations", 9),
        ("limits", {"flops": 50_000_000}),
        ("objectives", ("accuracy", "params")),
        ("max_evaluations", 30),
        ("evaluator", {"weights": 8}),
    ],
)
def test_resume_with_another_setting_is_refused(tmp_path: Path, name: str, value: Any) -> None:
    interrupt(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(BadInput, match=rf"another {name}[ .]"):
        search(tmp_path, resume=True, **{name: value})
    assert contents(tmp_path) == before


def test_resume_in_another_space_is_refused(tmp_path: Path) -> None:
    search(tmp_path, generations=1)
    with pytest.raises(BadInput, match="another space"):
        search(tmp_path, space=load_space("macro:width=0.5"), generations=1, resume=True)


def test_a_supernet_may_have_moved_when_a_search_is_resumed(tmp_path: Path) -> None:
    interrupt(tmp_path, parents={"supernet": "/here"})
    search(tmp_path, resume=True, parents={"supernet": "/there"})
    assert read_search(tmp_path).supernet == Path("/there")


@pytest.mark.parametrize("folder", ["new", "earlier"])
def test_a_used_folder_is_refused_without_resume(
    folder: str, tmp_path: Path, unbroken: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree({"new": unbroken, "earlier": EARLIER}[folder], out)
    before = contents(out)
    with pytest.raises(BadInput, match="already holds a run: --resume"):
        search(out)
    assert contents(out) == before


def test_a_search_by_score_is_drawn_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(search_run, "plot_front", lambda *given: drawn.append(given))
    result = search(tmp_path, objectives=("score", "flops"), generations=2)
    ((_, rows, front, *_, cost, quality),) = drawn
    assert (cost, quality) == ("flops", "score")
    assert rows == [e.row() for e in result.evaluations]
    assert front == [e.row() for e in result.front]
    assert {"score", "accuracy", "naswot"} < front[0].keys()


def test_infeasible_budget_stops_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InfeasibleBudget, match=r"ranges from 7\.713M to 105\.7M"):
        search(tmp_path / "run", Counting(SPACE, fail_at=0), limits={"flops": 1_000_000})
    assert not (tmp_path / "run").exists()


def test_a_budget_that_hardly_any_arch_meets_is_told_and_searched(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    space = load_space("s1")
    limits = {"flops": CostModel(space).range("flops").minimum}
    result = search(tmp_path, space=space, limits=limits, population=2, generations=1)
    assert "0 % of the archs drawn from s1 meet flops <= 242.8M" in caplog.text
    assert {str(e.arch) for e in result.evaluations} == {"_".join(["e3k3"] * 12)}
