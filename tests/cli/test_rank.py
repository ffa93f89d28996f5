"""The command `rank`: a truth file against a trained supernet, resume, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import TINY, Call, Job, check_refused, contents, is_written_last, mobilenas_json
from scipy.stats import kendalltau, zscore

from mobilenas.base.errors import BadInput
from mobilenas.cost import CostModel
from mobilenas.evaluate import workers
from mobilenas.evaluate.evaluator import SupernetEvaluator
from mobilenas.space import Arch, Space
from mobilenas.train.supernets import open_supernet_run


def distinct(space: Space, n: int) -> list[Arch]:
    rng = np.random.default_rng(0)
    drawn = dict.fromkeys(space.canonical(space.sample(rng)) for _ in range(5 * n))
    return list(drawn)[:n]


def write_truth(path: Path, job: Job, n: int = 40) -> Path:
    """Accuracies that grow with FLOPs, but for some noise."""
    space = open_supernet_run(job.supernet).space
    assert isinstance(space, Space)
    archs, noise = distinct(space, n), np.random.default_rng(1).normal(0, 0.02, n)
    flops = [CostModel(space).flops(arch) for arch in archs]
    accuracy = 0.5 + 0.3 * np.array(flops) / max(flops) + noise
    rows = [f"{arch},{value}" for arch, value in zip(archs, accuracy, strict=True)]
    path.write_text("\n".join(["arch,accuracy", *rows]) + "\n")
    return path


def test_the_figures_are_of_the_archs_that_are_listed(job: Job, tmp_path: Path, call: Call) -> None:
    out = tmp_path / "rank"
    truth = write_truth(tmp_path / "truth.csv", job)
    asked = ["rank", "--supernet", job.supernet, "--truth", truth, "--out", out, "-n", 35]
    printed = json.loads(call(*asked, "--json").out)
    stored = json.loads((out / "rank.json").read_text())
    archs = stored.pop("archs")
    assert printed == {"run": str(out)} | stored
    assert (stored["n"], stored["networks"], stored["ceiling"]) == (35, 40, None)
    zero_cost = {"naswot", "synflow", "supernet+naswot"}
    assert set(stored["predictors"]) == {"supernet", "flops", "params"} | zero_cost
    supernet, naswot = (zscore([row[name] for row in archs]) for name in ("supernet", "naswot"))
    np.testing.assert_allclose([row["supernet+naswot"] for row in archs], supernet + naswot)
    truths = [row["truth"] for row in archs]
    for name, figures in stored["predictors"].items():
        tau = kendalltau([row[name] for row in archs], truths).statistic
        assert figures["kendall"]["value"] == pytest.approx(tau)
        assert figures["kendall"]["low"] <= tau <= figures["kendall"]["high"]
    assert stored["predictors"]["flops"]["kendall"]["value"] > 0.5
    assert len(stored["regret"]["supernet"]) == 5
    assert (out / "rank.png").read_bytes().startswith(b"\x89PNG")
    assert is_written_last(out / "rank.json")

    run = open_supernet_run(job.supernet)
    assert isinstance(run.space, Space)
    evaluator = SupernetEvaluator(run)
    for row in archs[:3]:
        arch = run.space.parse(row["arch"])
        assert evaluator([arch]) == [row["supernet"]]
        assert row["flops"] == CostModel(run.space).flops(arch)


def test_statistics_of_the_supernet_are_another_ranking(
    job: Job, tmp_path: Path, call: Call
) -> None:
    truth = write_truth(tmp_path / "truth.csv", job)
    asked = ["rank", "--supernet", job.supernet, "--truth", truth, "--no-zero-cost", "--json"]
    own = json.loads(call(*asked, "--no-recalibrate", "--out", tmp_path / "own").out)
    assert set(own["predictors"]) == {"supernet", "flops", "params"}
    assert own["recalibrated"] is False
    rows = json.loads((tmp_path / "own" / "rank.json").read_text())["archs"]
    run = open_supernet_run(job.supernet)
    evaluator = SupernetEvaluator(run)
    arch = run.space.parse(rows[0]["arch"])
    assert evaluator([arch], recalibrated=False) == [rows[0]["supernet"]]


def test_few_archs_are_called_no_evidence(job: Job, tmp_path: Path, call: Call) -> None:
    truth = write_truth(tmp_path / "truth.csv", job, n=29)
    asked = ["rank", "--supernet", job.supernet, "--truth", truth, "--no-zero-cost"]
    text = call(*asked, "--out", tmp_path / "rank").out
    assert "no evidence: 29 archs, at least 30 are needed" in text
    assert "recalibrated for each arch" in text


def test_a_killed_ranking_is_resumed_to_the_same_bytes(
    job: Job, tmp_path: Path, call: Call
) -> None:
    truth = write_truth(tmp_path / "truth.csv", job)
    asked = ["rank", "--supernet", job.supernet, "--truth", truth, "--no-zero-cost"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert call(*asked, "--out", whole).code == 0
    check_refused(call(*asked, "--out", whole), str(whole), "--resume")
    assert call(*asked, "--out", killed).code == 0
    predictions = (killed / "predictions.jsonl").read_bytes()
    (killed / "predictions.jsonl").write_bytes(predictions[: len(predictions) // 2])
    (killed / "rank.json").unlink()
    assert call(*asked, "--out", killed, "--resume").code == 0
    assert contents(killed) == contents(whole)
    other = call(*asked, "--out", killed, "--resume", "--seed", 1)
    check_refused(other, str(killed), "another seed")
    head, *rows = truth.read_text().splitlines()
    halved = [f"{arch},{float(value) / 2}" for arch, value in (row.split(",") for row in rows)]
    truth.write_text("\n".join([head, *halved]))
    check_refused(call(*asked, "--out", killed, "--resume"), "truth.csv has other accuracies")
    assert contents(killed) == contents(whole)


def test_a_ranking_of_before_resumes_with_the_archs_that_it_drew(
    job: Job, tmp_path: Path, call: Call
) -> None:
    truth, out = write_truth(tmp_path / "truth.csv", job), tmp_path / "rank"
    asked = ["rank", "--supernet", job.supernet, "--truth", truth, "--no-zero-cost", "-n", 5]
    asked += ["--out", out]
    assert call(*asked).code == 0
    stored = json.loads((out / "run.json").read_text())
    (line, *_) = (out / "predictions.jsonl").read_text().splitlines(keepends=True)
    listed = [row.partition(",")[0] for row in truth.read_text().splitlines()[1:]]
    drawn = [*sorted(set(listed) - set(stored["facts"]["archs"]))[:4], json.loads(line)["arch"]]
    shutil.rmtree(out)
    out.mkdir()
    (out / "settings.json").write_text(json.dumps(stored["settings"] | {"archs": drawn}))
    (out / "predictions.jsonl").write_text(line)
    check_refused(call(*asked), str(out), "--resume")
    assert call(*asked, "--resume").code == 0
    rows = json.loads((out / "rank.json").read_text())["archs"]
    assert [row["arch"] for row in rows] == drawn
    predictions = (out / "predictions.jsonl").read_text().splitlines(keepends=True)
    assert (predictions[0], len(predictions)) == (line, 5)
    kept = [row for row in truth.read_text().splitlines() if not row.startswith(f"{drawn[0]},")]
    truth.write_text("\n".join(kept) + "\n")
    check_refused(call(*asked, "--resume"), "truth.csv lacks archs", str(out))


def test_zero_cost_scores_are_on_disk_as_soon_as_they_are_measured(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    truth = write_truth(tmp_path / "truth.csv", job, n=6)
    asked = ["rank", "--supernet", job.supernet, "--truth", truth, "--out", tmp_path / "rank"]
    measure, counted = workers.zero_cost_scores, []

    def count(*given: Any) -> dict[str, float]:
        counted.append(given)
        if len(counted) == 4:
            raise BadInput("stopped")
        return measure(*given)

    monkeypatch.setattr(workers, "zero_cost_scores", count)
    assert call(*asked).code == 2
    assert len((tmp_path / "rank" / "zero_cost.jsonl").read_text().splitlines()) == 3
    assert call(*asked, "--resume").code == 0
    assert len(counted) == 4 + 3


def test_cells_are_ranked(tmp_path: Path, call: Call) -> None:
    run = tmp_path / "supernet"
    space = "--space=nb101:channels=8,resolution=8,cells=1"
    trained = mobilenas_json(
        *(
            "supernet-train",
            space,
            *TINY,
            "--sampler=uniform",
            "--set=passes=1",
            "--set=sharing=none",
            f"--out={run}",
        )
    )
    assert [row["name"] for row in trained["validation"]] == ["smallest", "median", "largest"]
    assert trained["validation"][0]["arch"] == "mp"
    truth = tmp_path / "truth.csv"
    truth.write_text("arch,accuracy\nc1,80.5\nc3.none.mp,91\nmp.c3,93\nc1.c1,81\nc3,90\n")
    asked = ["rank", "--supernet", run, "--truth", truth, "--out", tmp_path / "rank", "--json"]
    found = json.loads(call(*asked).out)
    assert found["n"] == 4  # c3.none.mp and mp.c3 are one network
    assert found["predictors"]["naswot"]["kendall"]["value"] is not None


def test_what_is_refused(job: Job, tmp_path: Path, call: Call) -> None:
    asked = ["rank", "--supernet", job.supernet, "--out", tmp_path / "rank"]
    check_refused(call(*asked), "--truth FILE", "--benchmark")
    both = ["--truth", tmp_path / "no.csv", "--benchmark", "macro"]
    check_refused(call(*asked, *both), "give one of")
    check_refused(call(*asked, "--truth", tmp_path / "no.csv"), "no.csv")
    check_refused(call(*asked, "--benchmark", "nats"), "nats", "macro, nb101")
    check_refused(call("rank", "--supernet", tmp_path, "--benchmark", "macro"), "holds no run")
    bad = tmp_path / "bad.csv"
    bad.write_text("arch,accuracy\ne9k9_e3k3,50\n")
    check_refused(call(*asked, "--truth", bad), "bad.csv line 2", "digits")
    assert not (tmp_path / "rank").exists()


def test_a_supernet_of_another_space_is_refused(
    job: Job, data_root: Path, tmp_path: Path, call: Call
) -> None:
    asked = ["rank", "--supernet", job.supernet, "--data-root", data_root, "--out", tmp_path / "r"]
    for benchmark in ("macro", "nb101"):
        check_refused(call(*asked, "--benchmark", benchmark), f"benchmark {benchmark}", "--space")
