"""Run folders of every kind, with what their commands would have written, made without training."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mobilenas.base.files import write_json, write_jsonl
from mobilenas.cost import CostModel
from mobilenas.runs import RunFolder
from mobilenas.runs.beside import BENCH, PROOF
from mobilenas.space import EdgeCellSpace, Space, load_listed_space, load_space

TABLE = "epyc-zen5-onnxruntime-fp32-s1"
CLASSES = ["cat", "dog"]


def found_data(classes: list[str]) -> dict[str, Any]:
    return {"source": "pets", "train_images": 900, "test_images": 200, "classes": classes}


def make_runs(folder: Path, classes: list[str] | None = None, space: str = "digits") -> Path:
    """A whole job in a folder, by the names of its commands. Returns the folder."""
    named, names = load_space(space), classes or CLASSES
    facts = {"data": found_data(names), "data_checksum": 1, "classes": names}
    for make in (_supernet, _evolve, _train, _search, _rank, _truth, _check, _detect):
        make(folder, named, facts)
    return folder


def _archs(space: Space, n: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return list({str(space.sample(rng)): None for _ in range(2 * n)})[:n]


def _rows(space: Space, n: int) -> list[dict[str, Any]]:
    """Evaluated archs; the dearer the better, so that all are a front."""
    model = CostModel(space)
    rows = [{"arch": arch, **model.of(space.parse(arch))} for arch in _archs(space, n)]
    rows.sort(key=lambda row: row["flops"])
    return [
        {"generation": 1 + i % 3, **row, "accuracy": 0.6 + 0.3 * i / n, "feasible": True}
        for i, row in enumerate(rows)
    ]


def _curve(x: str, **values: Callable[[int], object]) -> list[dict[str, Any]]:
    return [{x: n / 10} | {key: f(n) for key, f in values.items()} for n in range(1, 60)]


def _supernet(folder: Path, space: Space, facts: dict[str, Any]) -> None:
    config = {"validate_images": 100}
    settings = {"space": space.to_dict(), "data": "pets", "seed": 3, "config": config}
    run = RunFolder.create(folder / "supernet", "supernet", settings, facts=facts)
    write_jsonl(run.path / "log.jsonl", _curve("passes", loss=lambda n: 3 / n))
    run.store_timing(75.0, {"device": "cpu", "cores": 2})
    rows = [
        {
            "name": name,
            "arch": row["arch"],
            "flops": row["flops"],
            "params": row["params"],
            "accuracy_inherited_bn": 0.5,
            "accuracy_recalibrated": 0.7,
        }
        for name, row in zip(("smallest", "median", "largest"), _rows(space, 3), strict=True)
    ]
    run.store_result({"validation": rows})


def _evolve(folder: Path, space: Space, facts: dict[str, Any]) -> None:
    rows = _rows(space, 12)
    settings = {
        "space": space.to_dict(),
        "objectives": ["accuracy", "flops"],
        "limits": {"flops": rows[-1]["flops"] * 1.1},
        "population": 4,
        "generations": 3,
        "seed": 0,
        "latency_tables": {},
        "evaluator": {"validation_images": 100, "weights": 1},
    }
    parents = {"supernet": str(folder / "supernet")}
    run = RunFolder.create(folder / "evolve", "evolve", settings, parents=parents, facts=facts)
    write_jsonl(run.path / "evaluations.jsonl", rows)
    places = {"places": {"supernet": parents["supernet"], "latency_tables": {}}}
    run.store_result({"front": rows[4:], "evaluations": 12, "settings": settings | places})


def _train(folder: Path, space: Space, facts: dict[str, Any]) -> None:
    row = _rows(space, 12)[-1]
    settings = {"space": space.to_dict(), "arch": row["arch"], "data": "pets", "seed": 1}
    parents = {"search": str(folder / "evolve"), "supernet": str(folder / "supernet")}
    run = RunFolder.create(folder / "train", "train", settings, parents=parents, facts=facts)
    log = _curve("epoch", loss=lambda n: 2 / n)
    log[-1]["accuracy"] = 0.93
    write_jsonl(run.path / "log.jsonl", log)
    run.store_timing(7300.0, {"device": "cpu"})
    run.store_result(
        {
            "space": space.name,
            "arch": row["arch"],
            "accuracy": 0.93,
            "last_accuracy": 0.92,
            "validation_images": 100,
            "test_accuracy": 0.91,
            "test_images": 200,
            **{key: row[key] for key in ("flops", "params", "memory")},
            "latency_ms": {"phone": 1.25},
        }
    )
    (run.path / "net.onnx").write_bytes(b"x" * 1000)
    parity = [{"batch_size": size, "max_rel": 2e-6, "top1_agreement": 1.0} for size in (1, 8)]
    check = {"images": 64, "parity": parity, "exported_accuracy": 0.9, "torch_accuracy": 0.9}
    proof = {"runtime": "onnxruntime", "dtype": "fp32", "verification": check}
    write_json(run.path / f"net.onnx{PROOF}", proof)
    write_json(run.path / f"net.onnx{BENCH}", {"ms": 0.5, "spread_ms": 0.01, "threads": 1})


def _search(folder: Path, _: Space, facts: dict[str, Any]) -> None:
    cells = load_listed_space("nb201:channels=4,cells=1,resolution=8")
    assert isinstance(cells, EdgeCellSpace)
    arch = str(cells.sample(np.random.default_rng(0)))
    settings = {"strategy": "darts", "space": cells.to_dict(), "limits": {}, "seed": 0}
    run = RunFolder.create(folder / "search", "search", settings, facts=facts)
    curve = {"entropy": lambda n: 1 / n, "skip": lambda n: 0.2, "expected_flops": lambda n: 6e4}
    write_jsonl(run.path / "log.jsonl", _curve("passes", loss=lambda n: 2 / n, **curve))
    sizes = [len(choice.candidates) for choice in cells.choices]
    run.store_result(
        {
            "front": [{"arch": arch, "flops": 66464, "params": 8366}],
            "settings": settings,
            "most_probable": arch,
            "passes": 6.0,
            "standing": {},
            "probabilities": [[1 / size] * size for size in sizes],
        }
    )


def _rank(folder: Path, space: Space, facts: dict[str, Any]) -> None:
    tau = {"value": 0.7, "low": 0.5, "high": 0.8}
    found = {"n": 12, "evidence": False, "kendall": tau, "spearman": tau, "pearson": tau}
    ranking = {
        "space": space.name,
        "n": 12,
        "networks": 4000,
        "truth": "truth.csv",
        "seed": 0,
        "ceiling": 0.9,
        "recalibrated": True,
        "min_evidence": 30,
        "regret": {},
        "predictors": {"supernet": found, "flops": found},
        "archs": [
            {"arch": row["arch"], "truth": row["accuracy"], "supernet": 0.6, "flops": row["flops"]}
            for row in _rows(space, 12)
        ],
    }
    parents = {"supernet": str(folder / "supernet")}
    run = RunFolder.create(folder / "rank", "rank", {"n": 12}, parents=parents, facts=facts)
    run.store_result(ranking)


def _truth(folder: Path, space: Space, facts: dict[str, Any]) -> None:
    settings = {"space": space.to_dict(), "seed": 0}
    run = RunFolder.create(folder / "truth", "truth", settings, facts=facts)
    run.store_result({"archs": _rows(space, 3)})


def _check(folder: Path, _: Space, __: dict[str, Any]) -> None:
    space = load_space("s1")
    settings = {
        "space": space.to_dict(),
        "table": TABLE,
        "processor": "a processor",
        "runtime": "onnxruntime",
        "runtime_version": "1.0",
    }
    run = RunFolder.create(folder / "check", "latency-check", settings)
    visits = [
        {"key": arch, "ms": 20.0 + 3 * n + 0.1 * visit, "runs": 5}
        for n, arch in enumerate(_archs(space, 6))
        for visit in range(3)
    ]
    write_jsonl(run.path / "check.jsonl", visits)


def _detect(folder: Path, space: Space, facts: dict[str, Any]) -> None:
    parents = {"network": str(folder / "train" / "network")}
    (folder / "train" / "network").mkdir()
    settings = {"config": "retinanet_digits", "space": None, "data": "pets", "seed": 0}
    run = RunFolder.create(folder / "detect", "detect", settings, parents=parents, facts={})
    scalars = run.path / "mmengine" / "1" / "vis_data" / "scalars.json"
    scalars.parent.mkdir(parents=True)
    scalars.write_text("".join(json.dumps({"step": n, "loss": 2 / n}) + "\n" for n in range(1, 9)))
    (run.path / "predictions").mkdir()
    Image.new("RGB", (600, 400), "teal").save(run.path / "predictions" / "0001.png")
    precisions = dict.fromkeys(("AP", "AP50", "AP75", "AP_small", "AP_medium"), 0.34)
    total = {"total": 2e8, "backbone": 1e8, "neck": 5e7, "head": 5e7}
    run.store_result(
        {
            "config": "retinanet_digits",
            "space": space.name,
            "arch": _archs(space, 1)[0],
            "flops": total,
            "params": total,
            "data": {"val": {"images": 9, "annotations": 20}},
            **precisions,
            "AP_large": None,
            "classes": dict.fromkeys(facts["classes"], 0.3),
        }
    )
