"""A run of another kind than a command needs: one line with what it is and what is needed."""

from pathlib import Path

from helpers import TINY, TINY_SPACE, Call, Job, Trained, check_refused

from mobilenas.base.files import read_json
from mobilenas.runs import RunFolder


def test_commands_refuse_runs_of_other_kinds(
    trained: Trained, job: Job, tmp_path: Path, call: Call
) -> None:
    detect = tmp_path / "detect"
    RunFolder.create(detect, "detect", {"config": "ssdlite"})
    needed = "a run of `mobilenas train` or `mobilenas evolve` or `mobilenas search` is needed"
    is_detector = f"{detect} holds the training of a detector"
    check_refused(call("export", "--onnx", f"--run={detect}"), is_detector, needed)
    is_network = f"{trained.folder} holds the training of a network"
    needed = "a run of `mobilenas supernet-train` is needed"
    evolve = ("evolve", "--flops=1.2M", f"--out={tmp_path / 'evolve'}")
    check_refused(call(*evolve, f"--supernet={trained.folder}"), is_network, needed)
    resume = ("--resume", f"--out={trained.folder}")
    check_refused(call("supernet-train", *resume), is_network, needed)
    is_supernet = f"{job.supernet} holds the training of a supernet"
    check_refused(call("train", "--resume", f"--out={job.supernet}"), is_supernet)
    assert [path.name for path in tmp_path.iterdir()] == ["detect"]


def test_options_by_their_names_of_before(tmp_path: Path, call: Call) -> None:
    """--config and --sampler, as scripts have them, are --preset and --strategy."""
    start = ("supernet-train", f"--space={TINY_SPACE}", *TINY[1:], "--passes=0.1")
    for name, flags in (
        ("now", ("--preset=quick", "--strategy=uniform")),
        ("before", ("--config=quick", "--sampler=uniform")),
    ):
        done = call(*start, *flags, f"--out={tmp_path / name}")
        assert done.code == 0, done.err
    now, before = (read_json(tmp_path / name / "run.json") for name in ("now", "before"))
    assert now.pop("provenance") != before.pop("provenance")  # the command lines differ
    assert now == before
    assert now["settings"]["config"]["strategy"] == "uniform"
    assert RunFolder.open(tmp_path / "now", "supernet").is_finished
    resume = ("supernet-train", "--resume", f"--out={tmp_path / 'now'}")
    check_refused(call(*resume, "--config=default"), "another config.")
    text = call("supernet-train", "--help").out
    assert "--preset" in text
    assert "--config" not in text
