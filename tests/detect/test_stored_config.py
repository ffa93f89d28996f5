"""Configs that are data run nothing, wherever they come from."""

import json
from pathlib import Path

import pytest

pytest.importorskip("mmdet", reason="the detectors need mmdet")

from mobilenas.base.errors import BadInput
from mobilenas.detect.config import read_config
from mobilenas.detect.stored import read_stored

CODE = "open({!r}, 'w').write('x')"


@pytest.mark.parametrize(
    "line",
    [
        "import os",
        "a = {code}",
        "a = [b for b in [1]]",
        "{code}",
        "a = dict(**{{'x': {code}}})",
        "a = dict(type='os.system', command='touch here')",
        "a = {{'optimizer': {{'constructor': 'subprocess.check_output'}}}}",
        "a = (",
        "a = " + "-" * 100_000 + "1",
        "a = " + "[" * 1000,
    ],
)
def test_the_config_of_a_run_folder_runs_nothing(line: str, tmp_path: Path) -> None:
    path, trace = tmp_path / "config.py", tmp_path / "trace"
    path.write_text(line.format(code=CODE.format(str(trace))) + "\n")
    with pytest.raises(BadInput, match=r"config\.py"):
        read_stored(path)
    assert not trace.exists()


def test_plain_values_come_back(tmp_path: Path) -> None:
    path = tmp_path / "config.py"
    path.write_text("size = (640, 480)\nmodel = dict(type='mmdet.RetinaNet', neck=None)\n")
    config = read_stored(path)
    assert (config.size, config.model.type) == ((640, 480), "mmdet.RetinaNet")


def test_yaml_and_json_run_nothing(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    yaml = tmp_path / "a.yaml"
    yaml.write_text(f"a: !!python/object/apply:os.system ['touch {trace}']\n")
    (tmp_path / "base.py").write_text(CODE.format(str(trace)) + "\n")
    based = tmp_path / "b.json"
    based.write_text(json.dumps({"_base_": "base.py"}))
    circle = tmp_path / "c.json"
    circle.write_text(json.dumps({"_base_": ["c.json"]}))
    for path in (yaml, based, circle):
        with pytest.raises(BadInput, match=path.name):
            read_config(str(path))
    assert not trace.exists()


def test_a_config_that_ends_the_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(BadInput, match=r"a\.py"):
        read_config(str(tmp_path / "a.py"))


def test_json_configs_build_on_others(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("model: {type: RetinaNet, depth: 1}\n")
    (tmp_path / "a.json").write_text(json.dumps({"_base_": "base.yaml", "model": {"depth": 2}}))
    config = read_config(str(tmp_path / "a.json"))
    assert config.to_dict() == {"model": {"type": "RetinaNet", "depth": 2}}
