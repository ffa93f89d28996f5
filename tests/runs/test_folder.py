"""The run folder: created, opened, resumed, finished, and refused in one line where it must be."""

import json
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from helpers import edit

from mobilenas.base.errors import BadInput
from mobilenas.base.settings import Record
from mobilenas.runs import Kind, RunFolder
from mobilenas.runs.folder import KINDS, is_run, newest_finished
from mobilenas.space import load_space


class Recipe(Record):
    lr: float = 0.1
    sizes: tuple[int, ...] = (1, 2)


class Settings(Record):
    data: str
    seed: int = 0
    recipe: Recipe = Recipe()


def refusal(function: Any, *arguments: Any, **named: Any) -> str:
    with pytest.raises(BadInput) as refused:
        function(*arguments, **named)
    message = str(refused.value)
    assert "\n" not in message
    return message


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    facts = {"classes": ("a", "b"), "checksum": 7}
    parents = {"supernet": tmp_path / "s"}
    settings = Settings(data="pets")
    return RunFolder.create(tmp_path / "run", "train", settings, parents=parents, facts=facts)


def test_a_run_is_opened_as_it_was_created(run: RunFolder, tmp_path: Path) -> None:
    again = RunFolder.open(tmp_path / "run", "train", "evolve")
    assert again == run
    assert again.kind == "train"
    assert again.read(Settings) == Settings(data="pets")
    assert again.parents == {"supernet": str(tmp_path / "s")}
    assert again.relative == {"supernet": "../s"}
    assert (again.fact("classes"), again.fact("checksum")) == (["a", "b"], 7)
    assert json.loads((run.path / "run.json").read_text()).keys() == {
        *("kind", "mobilenas", "settings", "parents", "relative", "facts", "provenance")
    }


def test_a_parent_is_found_where_it_is_now(run: RunFolder, tmp_path: Path) -> None:
    def place(folder: Path) -> Path:
        return RunFolder.open(folder, "train").parent("supernet", "--supernet")

    assert refusal(place, run.path) == (
        f"the supernet of {run.path} is no longer in {tmp_path / 's'}: give its --supernet"
    )
    (tmp_path / "s").mkdir()
    assert place(run.path) == tmp_path / "s"
    elsewhere = tmp_path / "far" / "away"
    shutil.copytree(run.path, elsewhere)  # the run alone
    assert place(elsewhere) == tmp_path / "s"
    (tmp_path / "far" / "s").mkdir()  # both of them
    assert place(elsewhere) == tmp_path / "far" / "s"
    said = RunFolder.open(elsewhere, "train").at(supernet=tmp_path, data=None)
    assert said.parent("supernet", "--supernet") == tmp_path


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("{}/a", "../a"),
        ("cifar10:{}/a", "cifar10:../a"),
        ("{}/a.parquet,{}/b.parquet", "../a.parquet,../b.parquet"),
        ("{}/a;label=fine_label", "../a;label=fine_label"),
        ("digits", None),
        ("laptop-onnxruntime-fp32-s2", None),
    ],
)
def test_places_of_every_form_are_stored_in_two_ways(
    given: str, near: str | None, tmp_path: Path
) -> None:
    given = given.replace("{}", str(tmp_path))
    run = RunFolder.create(tmp_path / "run", "train", {}, parents={"data": given})
    assert run.parents == {"data": given}
    assert run.relative == ({} if near is None else {"data": near})
    for name in ("a", "a.parquet", "b.parquet"):
        (tmp_path / name).mkdir(parents=True)
    if near is not None:
        found = RunFolder.open(tmp_path / "run", "train").find("data", "--data")
        assert found == given


@pytest.mark.parametrize("name", ["sup,b", "a;b=c"])
def test_a_folder_is_found_whatever_is_in_its_name(name: str, tmp_path: Path) -> None:
    (tmp_path / "one" / name).mkdir(parents=True)
    parent = str(tmp_path / "one" / name)
    RunFolder.create(tmp_path / "one" / "run", "train", {}, parents={"supernet": parent})
    (tmp_path / "one").rename(tmp_path / "other")
    found = RunFolder.open(tmp_path / "other" / "run", "train").find("supernet", "--supernet")
    assert found == str(tmp_path / "other" / name)


def test_a_folder_holds_one_run(run: RunFolder) -> None:
    before = (run.path / "run.json").read_bytes()
    for kind in KINDS:
        message = refusal(RunFolder.create, run.path, kind, {"data": "other"})
        assert message.startswith(f"{run.path} already holds a run: --resume continues it")
    assert (run.path / "run.json").read_bytes() == before


def test_a_run_of_another_kind_is_named_with_the_command_that_is_needed(run: RunFolder) -> None:
    assert refusal(RunFolder.open, run.path, "supernet") == (
        f"{run.path} holds the training of a network; a run of `mobilenas supernet-train` is needed"
    )
    message = refusal(RunFolder.open, run.path, "evolve", "detect")
    assert "a run of `mobilenas evolve` or `mobilenas detect train` is needed" in message
    empty = run.path / "none"
    message = refusal(RunFolder.open, empty, "train", "evolve")
    assert message.startswith(f"{empty} holds no run")
    assert "`mobilenas train` or `mobilenas evolve`" in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["JSON"]),
        ("[]", ["run.json"]),
        ('{"kind": "train"}', ["settings"]),
        ('{"kind": "dance", "settings": {}, "parents": {}, "facts": {}}', ["'dance'", "supernet"]),
        ('{"kind": "train", "settings": [], "parents": {}, "facts": {}}', ["settings: must be"]),
        ('{"kind": "train", "settings": {}, "parents": 1, "facts": {}}', ["parents: must be"]),
    ],
)
def test_a_damaged_file_is_named(content: str, words: list[str], run: RunFolder) -> None:
    (run.path / "run.json").write_text(content)
    message = refusal(RunFolder.open, run.path, "train")
    assert str(run.path / "run.json") in message
    assert [word for word in words if word not in message] == [], message


def test_what_is_missing_or_wrong_in_it_is_named(run: RunFolder) -> None:
    assert "lacks the fact 'mean'" in refusal(run.fact, "mean")
    assert "which network it was made from" in refusal(run.parent, "network", "--weights")
    edit(run.path / "run.json", settings={"data": "pets", "recipe": {"lr": "fast"}})
    message = refusal(RunFolder.open(run.path, "train").read, Settings)
    assert message.startswith(f"{run.path / 'run.json'}: recipe.lr: ")


def test_settings_that_are_given_again_have_to_be_the_same(run: RunFolder) -> None:
    same = {"data": "pets", "seed": 0, "recipe": Recipe(), "unknown": None}
    run.check_unchanged(same)
    ending = "leave it out to resume, or choose another --out"
    assert refusal(run.check_unchanged, {"seed": None, "data": "cars"}) == (
        f"{run.path} was started with another data (pets, not cars): {ending}"
    )
    assert refusal(run.check_unchanged, {"recipe": Recipe(lr=0.2)}) == (
        f"{run.path} was started with another recipe.lr (0.1, not 0.2): {ending}"
    )
    message = refusal(run.check_unchanged, {"recipe": Recipe(sizes=(1, 3))})
    assert "another recipe.sizes ([1, 2], not [1, 3])" in message
    long = "x" * 200
    assert f"another data: {ending}" in refusal(run.check_unchanged, {"data": long})


def test_a_space_takes_the_defaults_of_keys_that_came_later(tmp_path: Path) -> None:
    space = load_space("s1").to_dict()
    older = {key: x for key, x in space.items() if key != "path_activation"}
    run = RunFolder.create(tmp_path, "supernet", {"space": older})
    assert run.settings["space"] == space
    run.check_unchanged({"space": space})
    other = load_space("s1:stem.channels=99").to_dict() | {"name": "s1"}
    assert "another space.stem.channels (" in refusal(run.check_unchanged, {"space": other})


def test_start_or_resume(tmp_path: Path) -> None:
    settings, path = {"n": 3}, tmp_path / "run"
    refused = refusal(RunFolder.start_or_resume, path, "rank", settings, resume=True)
    assert refused == (
        f"{path} holds no run to resume; `mobilenas rank` without --resume starts one"
    )
    assert not path.exists()
    started = RunFolder.start_or_resume(path, "rank", settings, resume=False, facts={"a": 1})
    assert RunFolder.start_or_resume(path, "rank", settings, resume=True) == started
    refused = refusal(RunFolder.start_or_resume, path, "rank", {"n": 4}, resume=True)
    ending = "give the same to resume, or choose another --out"
    assert refused == f"{path} was started with another n (3, not 4): {ending}"
    refused = refusal(RunFolder.start_or_resume, path, "rank", settings, resume=False)
    assert "already holds a run" in refused
    refused = refusal(RunFolder.start_or_resume, path, "latency", settings, resume=True)
    assert "holds the ranking of a supernet" in refused


@pytest.mark.parametrize("name", ["runtime_version", "processor"])
def test_timings_of_another_host_take_another_folder(name: str, tmp_path: Path) -> None:
    start = partial(RunFolder.start_or_resume, tmp_path, "latency")
    start({name: "1"}, resume=False)
    assert refusal(start, {name: "2"}, resume=True) == (
        f"{tmp_path} was started with another {name} (1, not 2): timings of two do not mix; choose "
        "another --out"
    )


@pytest.mark.parametrize(
    ("kind", "name"), [("supernet", "result.json"), ("evolve", "front.json"), ("rank", "rank.json")]
)
def test_a_run_with_its_result_is_finished(kind: Kind, name: str, tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, kind, {})
    assert not run.is_finished
    command = f"`mobilenas {KINDS[kind][1]} --resume --out {tmp_path}`"
    expected = f"{tmp_path} is not finished: {command} does the rest"
    assert [refusal(run.check_finished), refusal(run.result)] == [expected] * 2
    run.store_result({"accuracy": 0.5})
    assert (tmp_path / name).is_file()
    run.check_finished()
    assert run.result(dict[str, float]) == run.result() == {"accuracy": 0.5}
    assert f"{name}: accuracy: " in refusal(run.result, dict[str, str])


def test_seconds_are_those_that_were_stored(run: RunFolder) -> None:
    assert run.seconds == 0
    run.store_timing(12.5, {"device": "cpu"})
    assert run.seconds == 12.5
    assert json.loads((run.path / "timing.json").read_text())["device"] == "cpu"


def test_the_newest_finished_run_is_found(tmp_path: Path) -> None:
    kinds: tuple[Kind, Kind] = ("train", "evolve")
    folders = [tmp_path / "a", tmp_path / "b", tmp_path / "none"]
    message = refusal(newest_finished, kinds, *folders)
    assert message.startswith(f"no finished run in {folders[0]} or {folders[1]} or {folders[2]}")
    assert "`mobilenas train` and `mobilenas evolve`" in message
    runs = [RunFolder.create(folders[i], kinds[i], {}) for i in range(2)]
    assert "no finished run" in refusal(newest_finished, kinds, *folders)
    runs[0].store_result({})
    assert newest_finished(kinds, *folders) == runs[0]
    runs[1].store_result({})
    results = (folders[0] / "result.json", folders[1] / "front.json")
    for newest in (0, 1):
        for i, path in enumerate(results):
            os.utime(path, (1e9, 1e9 + (i == newest)))
        assert newest_finished(kinds, *folders) == runs[newest]
    assert is_run(folders[0], "train")
    assert not is_run(folders[2], "train")


def test_a_run_has_its_command_line_without_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [
        "/bin/mobilenas",
        "train",
        "--out",
        "x",
        "--data",
        "my pets",
        "--out=y",
        "--json",
        "--seed=1",
        "--track=http://user:password@host",
        "--track",
        "file:///store",
    ]
    monkeypatch.setattr("sys.argv", command)
    run = RunFolder.create(tmp_path / "run", "train", {})
    assert run.provenance["command"] == "mobilenas train --data 'my pets' --seed=1"
    assert run.provenance["torch"]
    monkeypatch.setattr("sys.argv", ["my_script.py", "--secret"])
    assert "command" not in RunFolder.create(tmp_path / "other", "train", {}).provenance


def test_a_run_without_provenance_opens(run: RunFolder) -> None:
    stored = json.loads((run.path / "run.json").read_text())
    del stored["provenance"]
    (run.path / "run.json").write_text(json.dumps(stored))
    assert RunFolder.open(run.path, "train").provenance == {}
