"""What `search` leaves is the backbone of a detector: from its own weights, and trained alone."""

import json
from pathlib import Path

import pytest
from helpers import ALONE, Call
from searched import SMALL

from mobilenas.data.scenes import make_scenes

pytest.importorskip("mmdet", reason="needs pip install '.[detect]'")

from test_detect import OPTIONS

SPACE = "mobilenetv2:width=0.1,resolution=32"  # which has maps of stride 32


def test_a_detector_is_trained_on_the_arch_of_a_search(tmp_path: Path, call: Call) -> None:
    scenes, search, alone = (tmp_path / name for name in ("scenes", "search", "train"))
    make_scenes(scenes, train=6, val=3)
    asked = ("--strategy=gdas", *SMALL, f"--space={SPACE}", "--params=190k")
    done = call("search", *asked, f"--out={search}")
    assert done.code == 0, done.err
    (row,) = json.loads((search / "front.json").read_text())["front"]
    done = call("train", f"--search={search}", *ALONE, "--set=epochs=1", f"--out={alone}")
    assert done.code == 0, done.err
    detect = ["detect", "train", "retinanet_quick", f"--data={scenes}", "--json"]
    detect += [f"--set={option}" for option in (*OPTIONS, "train_cfg.max_epochs=1")]
    for run in (search, alone):
        out = tmp_path / f"detect-{run.name}"
        done = call(*detect, f"--weights={run / 'network'}", f"--out={out}")
        assert done.code == 0, done.err
        result = json.loads(done.out)
        assert result["arch"] == row["arch"]
        assert 0 <= result["AP"] <= 1
        parent = json.loads((out / "run.json").read_text())["parents"]
        assert str(run / "network") in parent.values()
