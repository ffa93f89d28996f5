"""`mobilenas report`: the file, the same as data, and what it is refused for."""

import json
import subprocess
import sys
from pathlib import Path

import yaml
from helpers import Call, Job, Trained, check_refused

from mobilenas.base.files import read_json


def test_a_report_is_of_a_run_and_its_parents(job: Job, tmp_path: Path, call: Call) -> None:
    out = tmp_path / "report.html"
    done = call("report", job.search, f"--out={out}")
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == f"report: {out}"
    assert done.out.startswith("asked: Networks of the space digits")
    assert out.read_text().startswith("<!doctype html>")
    content = json.loads(call("report", job.search, "--json").out)
    assert [run["run"] for run in content["runs"]] == ["supernet", "evolve"]
    front = read_json(job.search / "front.json")["front"]
    assert content["searches"][0]["front"] == front
    assert content["exports"][0]["proof"] == stored(job)
    assert content["runs"][0]["provenance"]["command"].startswith("mobilenas supernet-train")
    assert list(tmp_path.iterdir()) == [out]


def test_a_trained_network_has_a_model_card(trained: Trained) -> None:
    card = (trained.folder / "network" / "README.md").read_text()
    about = yaml.safe_load(card.split("---\n")[1])
    result = read_json(trained.folder / "result.json")
    (row,) = about["model-index"]
    assert row["name"] == result["arch"]
    assert row["results"][0]["metrics"][0]["value"] == round(result["test_accuracy"], 6)


def test_an_exported_file_has_a_card_and_its_proof(job: Job) -> None:
    path = Path(job.exported["path"])
    assert read_json(path.with_name(f"{path.name}.proof.json")) == stored(job)
    assert f"# `{path.name}`" in path.with_name(f"{path.name}.md").read_text()


def stored(job: Job) -> dict[str, object]:
    """What export printed, without the time that it took."""
    return {key: value for key, value in job.exported.items() if key != "seconds"}


def test_what_holds_no_run_is_refused(tmp_path: Path, call: Call) -> None:
    check_refused(call("report", tmp_path), f"{tmp_path} holds no run")
    check_refused(call("report", tmp_path / "no"), "there is no such folder")
    (tmp_path / "run.json").write_text('{"kind": "train", "settings": {}}')
    done = call("report", tmp_path, f"--out={tmp_path / 'report.html'}")
    assert done.code == 0, done.err
    assert "note: " in done.out
    check_refused(call("report", tmp_path, f"--out={tmp_path}"), "it is a folder")


def test_nothing_of_it_is_imported_by_others() -> None:
    code = (
        "import sys, mobilenas, mobilenas.cli, mobilenas.report.page.write\n"
        "print(*{'plotly', 'jinja2', 'torch', 'matplotlib'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
