"""The command `search` on the supernet of another run."""

import json
from pathlib import Path

import pytest
import torch
from helpers import TINY, TINY_SPACE, Call, Job, check_refused
from searched import CELLS, CHEAPER, SMALL

from mobilenas.runs import RunFolder
from mobilenas.train.supernets import load_supernet

SVGE = [
    "search",
    "--strategy=svge",
    "--preset=cpu",
    "--set=labels=10",
    "--set=rounds=2",
    "--set=round_archs=3",
    "--set=vae_steps=20",
    "--set=device=cpu",
    "--set=weights_first=0.8",
]


def test_what_a_projection_starts_from(tmp_path: Path, call: Call) -> None:
    out = f"--out={tmp_path / 'search'}"
    asked = ["search", "--strategy=darts-pt", *SMALL]
    check_refused(call(*asked, out), "--from RUN")
    check_refused(call(*asked, out, f"--from={tmp_path}"), "holds no run")
    folders = {}
    for name in ("gdas", "pdarts", "darts"):
        folders[name] = tmp_path / name
        assert call("search", f"--strategy={name}", *SMALL, f"--out={folders[name]}").code == 0
    for name in ("gdas", "pdarts"):
        check_refused(call(*asked, out, f"--from={folders[name]}"), name, "adds up all")
    given = f"--from={folders['darts']}"
    check_refused(call("search", "--strategy=gdas", *SMALL, given, out), "--from", "darts-pt")
    merged = f"--out={tmp_path / 'merged'}"
    assert call("search", "--strategy=mergenas", *SMALL, f"--space={CELLS}", merged).code == 0
    check_refused(call(*asked, out, f"--from={tmp_path / 'merged'}"), "mergenas", "adds up all")
    check_refused(call(*asked, given, "--space=digits", out), "digits", "left out")
    assert not (tmp_path / "search").exists()
    alone = [flag for flag in SMALL if not flag.startswith("--space")]
    own = ["--set=blank=true", "--set=arch_lr=0.007"]
    done = call("search", "--strategy=darts-pt", *alone, given, *own, out, "--json")
    assert done.code == 0, done.err
    assert "a tenth of it suits" not in done.err
    (group,) = torch.load(tmp_path / "search" / "checkpoint.pt")["task"]["strategy"]["optimizer"][
        "param_groups"
    ]
    assert group["lr"] == 0.007
    assert RunFolder.open(tmp_path / "search", "search").settings["config"]["lr"] == 0.1 / 10
    preset = [*alone, *own]
    assert call("search", "--resume", *preset, out).code == 0
    check_refused(call("search", "--resume", *preset, "--set=lr=0.1", out), "config.lr")
    full = ["--set=lr=0.1", f"--out={tmp_path / 'full'}"]
    assert "a tenth of it suits" in call(*asked[:2], *alone, given, *full).err
    check_refused(call("search", "--resume", given, out), "--from", "leave it out")
    splits = [(tmp_path / name / "splits.json").read_bytes() for name in ("darts", "search")]
    assert splits[0] == splits[1]
    (folders["darts"] / "front.json").unlink()
    check_refused(call(*asked, given, f"--out={tmp_path / 'other'}"), "not finished")


@pytest.mark.parametrize("name", ["gaea", "dropnas"])
def test_a_projection_needs_more_than_one_batch(name: str, tmp_path: Path, call: Call) -> None:
    parent, out = tmp_path / "parent", f"--out={tmp_path / 'search'}"
    flags = [flag for flag in SMALL if "validate_images" not in flag]
    single = ["--set=level=single"] if name == "gaea" else []
    asked = ["search", "--strategy=darts-pt", *flags, f"--from={parent}", out]
    assert call("search", f"--strategy={name}", *flags, *single, f"--out={parent}").code == 0
    check_refused(call(*asked), str(parent), name, "validate_images 16", "above 16")
    assert not (tmp_path / "search").exists()
    again = tmp_path / "again"
    more = [*flags, *single, "--set=validate_images=32"]
    assert call("search", f"--strategy={name}", *more, f"--out={again}").code == 0
    asked[-2] = f"--from={again}"
    check_refused(call(*asked, "--set=batch_size=32"), "validate_images 32", "above 32")
    done = call(*asked)
    assert done.code == 0, done.err
    if name == "gaea":  # by its own rate, 2,000 over the steps that learn
        assert "eta" in done.err and "arch_lr" not in done.err


@pytest.mark.parametrize(
    "name", ["pc-darts", "lambda-darts", "shapley", "zarts", "idarts", "drnas"]
)
def test_whose_supernet_a_projection_takes(name: str, tmp_path: Path, call: Call) -> None:
    parent, out = tmp_path / "parent", tmp_path / "search"
    cells = [*SMALL, f"--space={CELLS}", "--set=epochs=0.4"]
    flags = [*cells, *CHEAPER.get(name, [])]
    assert call("search", f"--strategy={name}", *flags, f"--out={parent}").code == 0
    asked = ["search", "--strategy=darts-pt", *cells, "--set=score_images=16"]
    done = call(*asked, f"--from={parent}", f"--out={out}")
    assert done.code == 0, done.err
    given = torch.load(out / "inherited.pt", weights_only=True)
    stored = torch.load(parent / "checkpoint.pt", weights_only=True)
    pairs = zip(
        *(x["parameters"] for x in (given["strategy"], stored["task"]["strategy"])), strict=True
    )
    assert all(torch.equal(a, b) for a, b in pairs)
    rows = (out / "projections.jsonl").read_text().splitlines()
    assert [json.loads(row)["choice"][:4] for row in rows] == ["edge"] * 6
    (found,) = json.loads((out / "front.json").read_text())["front"]
    for row in map(json.loads, rows):  # the one that is missed the most
        most = row["without"][max(range(5), key=lambda i, loss=row["loss"]: loss[i])]
        start, end = row["choice"].removeprefix("edge ").split("-")
        assert f"{most}~{start}" in found["arch"].split("+")[int(end) - 1]


@pytest.mark.parametrize("sharing", ["none", "both"])
def test_a_trained_supernet_is_searched_as_it_is(
    sharing: str, job: Job, tmp_path: Path, call: Call
) -> None:
    supernet, out = job.supernet, tmp_path / "search"
    if sharing != "none":
        supernet = tmp_path / "supernet"
        trained = ["supernet-train", *TINY, f"--space={TINY_SPACE}", f"--set=sharing={sharing}"]
        assert call(*trained, "--set=passes=1", f"--out={supernet}").code == 0
    done = call(*SVGE, f"--from={supernet}", "--flops=1.2M", f"--out={out}", "--json")
    assert done.code == 0, done.err
    weights = load_supernet(RunFolder.open(supernet, "supernet")).state_dict()
    after = torch.load(out / "checkpoint.pt")["module"]
    assert weights.keys() == after.keys()
    assert all(torch.equal(weights[name], after[name]) for name in weights)
    splits = [(folder / "splits.json").read_bytes() for folder in (supernet, out)]
    assert splits[0] == splits[1]

    (found,) = json.loads(done.out)["front"]
    rows = [json.loads(line) for line in (out / "labels.jsonl").read_text().splitlines()]
    measured = [name for row in rows for name in row["without"]]
    assert f"arch {found['arch']}" in measured and found["flops"] <= 1.2e6
    assert len(set(measured)) == len(measured) == 16
    shown = call("search", "--resume", f"--out={out}")
    assert "the best measured arch within the budget, after" in shown.out


def test_what_svge_starts_from(job: Job, tmp_path: Path, call: Call) -> None:
    out = f"--out={tmp_path / 'search'}"
    check_refused(call(*SVGE, f"--from={job.search}", out), str(job.search), "supernet-train")
    given = f"--from={job.supernet}"
    check_refused(call("search", "--strategy=darts-pt", given, out), str(job.supernet), "search")
    check_refused(call("search", "--strategy=gdas", given, out), "--from", "darts-pt and svge")
    check_refused(call(*SVGE, given, "--space=digits", out), "digits", "left out")
    assert not (tmp_path / "search").exists()
