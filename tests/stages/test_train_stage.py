"""Stand-alone training as a stage: what `training_settings` makes of what is asked for."""

import json
from pathlib import Path

import pytest
from helpers import TINY_SPACE

from mobilenas.base.errors import BadInput
from mobilenas.runs import RunFolder
from mobilenas.space import load_space
from mobilenas.stages.train import Asked, training_settings
from mobilenas.train.supernets import SupernetSettings

CHEAP, BEST = "e3k3_e3k3_e3k3_e3k3_e3k3_e3k3", "e3k3_e3k5_e3k3_e3k37_e3k35_e3k5"


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The settings of a supernet that has been trained and of one that has not, and a search; the
    images are in the working folder.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    space = load_space(TINY_SPACE).to_dict()
    settings = SupernetSettings.model_validate(
        {"space": space, "data": "photos", "seed": 0, "config": {}}
    )
    for name in ("trained", "started"):
        RunFolder.create(tmp_path / name, "supernet", settings)
    (tmp_path / "trained" / "result.json").write_text("{}")
    rows = [
        {"arch": CHEAP, "accuracy": 0.5, "flops": 1},
        {"arch": BEST, "accuracy": 0.7, "flops": 9},
    ]
    about = {
        "objectives": ["accuracy", "flops"],
        "places": {"supernet": str(tmp_path / "trained")},
        "evaluator": {"weights": 0},
    }
    (tmp_path / "search").mkdir()
    front = json.dumps({"front": rows, "settings": about})
    (tmp_path / "search" / "front.json").write_text(front)
    return tmp_path


def test_a_search_brings_arch_space_and_data(runs: Path) -> None:
    for pick, arch in ((None, BEST), ("cheapest", CHEAP)):
        settings = training_settings(Asked(search=runs / "search", pick=pick))
        assert (settings.arch, settings.data, settings.inherit) == (arch, "photos", None)
        assert settings.space == load_space(TINY_SPACE).to_dict()
    asked = Asked(search=runs / "search", arch=CHEAP, data="digits", resolution=32)
    settings = training_settings(asked)
    assert (settings.arch, settings.data, settings.space["resolution"]) == (CHEAP, "digits", 32)


def test_a_search_needs_no_supernet_where_space_and_data_are_given(runs: Path) -> None:
    (runs / "trained" / "result.json").unlink()  # of its supernet
    settings = training_settings(Asked(search=runs / "search", space=TINY_SPACE, data="digits"))
    assert (settings.arch, settings.inherit) == (BEST, None)
    with pytest.raises(BadInput, match="supernet"):
        training_settings(Asked(search=runs / "search", data="digits"))


def test_a_pick_needs_a_search_to_choose_from(runs: Path) -> None:
    for asked in (
        Asked(space=TINY_SPACE, arch=CHEAP, pick="knee"),
        Asked(search=runs / "search", arch=CHEAP, pick="knee"),
    ):
        with pytest.raises(BadInput, match=r"--pick knee: .* --search"):
            training_settings(asked)


def test_only_a_finished_supernet_is_inherited(runs: Path) -> None:
    settings = training_settings(Asked(arch=BEST, inherit=runs / "trained"))
    assert settings.inherit == str(runs / "trained")
    with pytest.raises(BadInput, match=r"started is not finished: .* --resume"):
        training_settings(Asked(arch=BEST, inherit=runs / "started"))
