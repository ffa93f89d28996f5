"""Training and evaluating a detector through mmengine's runner."""

import contextlib
from typing import Any

from mmengine.runner import Runner

from mobilenas.base.randomness import borrowed_generators
from mobilenas.detect.build import (
    check_epochs,
    checkpoint_hook,
    input_size,
    quiet,
    runnable,
)
from mobilenas.detect.checkpoint import check_weights
from mobilenas.detect.costs import DetectorCost, detector_cost
from mobilenas.detect.detector import DetectRun, check_trained
from mobilenas.detect.hooks import CheckpointHook, ProgressHook, SeedHook

# What COCO calls them, and what mmdet does.
_PRECISIONS = {
    "AP": "bbox_mAP",
    "AP50": "bbox_mAP_50",
    "AP75": "bbox_mAP_75",
    "AP_small": "bbox_mAP_s",
    "AP_medium": "bbox_mAP_m",
    "AP_large": "bbox_mAP_l",
}


def train_detector(run: DetectRun) -> dict[str, Any]:
    """Train from the checkpoint of the run folder, or from the start, to the end; then evaluate.

    An epoch is a function of (seed, epoch) and of the checkpoint before it, so a killed run
    continues to the same weights as an unbroken one (on the CPU). Returns and stores result.json.
    Raises Diverged, leaving the last good checkpoint, and BadInput as `check_epochs` does.
    """
    folder, seed = run.folder, run.settings.seed
    if folder.is_finished:
        return folder.result()
    config, resumed = runnable(run.config, folder.path, seed), run.checkpoint.exists()
    config.default_hooks = {**(config.get("default_hooks") or {}), "checkpoint": None}
    if resumed:
        config.update(resume=True, load_from=str(run.checkpoint))
        config.model.backbone.pop("init_cfg", None)  # the weights that training started from
    progress = ProgressHook()
    with quiet(folder.path), borrowed_generators() as start:
        start(seed, 0)
        runner = Runner.from_cfg(config)
        check_epochs(run.config, runner, run.settings.config)  # of runs of before too
        if resumed:
            check_weights(run.checkpoint, runner.model)
        runner.register_hook(SeedHook(start, seed))
        interval = checkpoint_hook(run.config).get("interval", 1)
        runner.register_hook(CheckpointHook(folder, interval))
        runner.register_hook(progress)
        with contextlib.closing(progress):
            runner.train()
    metrics = progress.metrics
    precisions = evaluate_detector(run) if metrics is None else _precisions(run, metrics)
    result = {**describe_run(run), **precisions}
    folder.store_result(result)
    return result


def evaluate_detector(run: DetectRun) -> dict[str, Any]:
    """COCO's average precisions of a run on its validation part, 0..1, and those of each class.

    None where the part has no box of that size or class.
    """
    check_trained(run)
    config = runnable(run.config, run.folder.path, run.settings.seed)
    config.load_from = str(run.checkpoint)
    progress = ProgressHook()
    with quiet(run.folder.path), borrowed_generators():
        runner = Runner.from_cfg(config)
        check_weights(run.checkpoint, runner.model)
        runner.register_hook(progress)
        with contextlib.closing(progress):
            metrics = runner.test()
    return _precisions(run, metrics)


def describe_run(run: DetectRun) -> dict[str, Any]:
    """What is trained: network, and FLOPs and params of the whole detector at `input` (h, w)."""
    backbone, size = run.config.model.backbone, input_size(run.config)
    with quiet(run.folder.path), borrowed_generators():
        cost = detector_cost(run.config, *size)
    return {
        "config": run.settings.config,
        "space": backbone.space["name"] if "space" in backbone else None,
        "arch": backbone.get("arch"),
        "data": run.found,
        "input": list(size),
        **{name: _by_part(cost, name) for name in ("flops", "params")},
    }


def _by_part(cost: DetectorCost, name: str) -> dict[str, int]:
    parts = ("total", "backbone", "neck", "head")
    return {part: getattr(getattr(cost, part), name) for part in parts}


def _precisions(run: DetectRun, metrics: dict[str, float]) -> dict[str, Any]:
    # mmdet measures nothing where nothing was detected, and of regions without classes their recall
    # alone; COCO says -1 where there is no box.
    def read(name: str) -> float | None:
        value = float(metrics.get(f"coco/{name}", -1.0 if metrics else 0.0))
        return value if value >= 0 else None

    classes = {name: read(f"{name}_precision") for name in run.data.classes}
    return {title: read(name) for title, name in _PRECISIONS.items()} | {"classes": classes}
