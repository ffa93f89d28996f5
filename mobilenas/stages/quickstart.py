"""The whole job, small, on the built-in digits: `mobilenas quickstart`."""

from pathlib import Path
from typing import Any

from mobilenas.cost import CostModel
from mobilenas.cost.budget import Budget
from mobilenas.export import Report
from mobilenas.latency.bench import bench_files
from mobilenas.report.page.content import report_content
from mobilenas.report.page.write import write_page
from mobilenas.runs.beside import BENCH
from mobilenas.runs.folder import check_for_runs, is_run
from mobilenas.search import Result
from mobilenas.space import load_space
from mobilenas.stages.evolve import Search, run_evolve
from mobilenas.stages.export import Target, run_export_trained
from mobilenas.stages.supernet_train import (
    create_supernet_run,
    resume_supernet_run,
    score_supernet,
    train_supernet,
)
from mobilenas.stages.train import (
    Asked,
    create_network_run,
    finish_train,
    train_network,
    training_settings,
)
from mobilenas.train.config import load_supernet_config
from mobilenas.train.networks import open_network_run

REPORT = "report.html"  # in the folder of the whole job
FOLDERS = ("supernet", "evolve", "train")  # of the runs, in that of the whole job


def run_quickstart(out: Path, seed: int) -> tuple[Result, dict[str, Any], Report]:
    """Supernet, search, training of the winner, export, report; what is already in `out` is
    continued.

    Returns the search's result, that of the winner's training, and the report of its export.
    """
    check_for_runs(out)
    folders = {name: out / name for name in FOLDERS}
    digits, config = load_space("digits"), load_supernet_config("quick", [])
    if is_run(folders["supernet"], "supernet"):
        given = {"space": digits, "data": "digits", "seed": seed, "config": config}
        supernet = resume_supernet_run(folders["supernet"], given)
    else:
        supernet = create_supernet_run(folders["supernet"], digits, "digits", seed, config)
    train_supernet(supernet)
    score_supernet(supernet)
    budget = Budget({"flops": CostModel(digits).range("flops").median})
    search = Search(folders["supernet"], budget, generations=8, seed=seed)
    found = run_evolve(search, folders["evolve"], resume=is_run(folders["evolve"], "evolve"))
    if is_run(folders["train"], "train"):
        training = open_network_run(folders["train"])
    else:
        asked = Asked(search=folders["evolve"], inherit=folders["supernet"], seed=seed)
        chosen = training_settings(asked)
        training = create_network_run(folders["train"], chosen, search=folders["evolve"])
    train_network(training)
    trained = finish_train(training)
    exported = run_export_trained(folders["train"], Target())
    if not Path(f"{exported.path}{BENCH}").exists():
        bench_files([exported.path], threads=1, rounds=3).store()
    write_page(report_content([out]), out / REPORT)
    return found, trained, exported
