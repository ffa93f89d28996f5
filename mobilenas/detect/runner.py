"""Training and evaluating a detector through mmengine's runner."""

import contextlib
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.runner import Runner

from mobilenas.detect.costs import DetectorCost, detector_cost
from mobilenas.detect.hooks import CheckpointHook, ProgressHook, SeedHook
from mobilenas.detect.run import DetectRun, check_trained
from mobilenas.errors import BadInput
from mobilenas.files import read_json, write_json
from mobilenas.randomness import borrowed_generators

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
    Raises Diverged, leaving the last good checkpoint.
    """
    path = run.folder / "result.json"
    if path.exists():
        return dict(read_json(path))
    config, resumed = _runnable(run), run.checkpoint.exists()
    hook = config.default_hooks.checkpoint or {}
    config.default_hooks.checkpoint = None
    if resumed:
        config.update(resume=True, load_from=str(run.checkpoint))
        config.model.backbone.pop("init_cfg", None)  # the weights that training started from
    progress = ProgressHook()
    with quiet(run.folder), borrowed_generators() as seed:
        seed(run.settings.seed, 0)
        runner = Runner.from_cfg(config)
        runner.register_hook(SeedHook(seed, run.settings.seed))
        runner.register_hook(
            CheckpointHook(run.folder, hook.get("interval", 1), hook.get("by_epoch", True))
        )
        runner.register_hook(progress)
        with contextlib.closing(progress):
            runner.train()
    metrics = progress.metrics
    precisions = evaluate_detector(run) if metrics is None else _precisions(run, metrics)
    result = {**describe_run(run), **precisions}
    write_json(path, result)
    return result


def evaluate_detector(run: DetectRun) -> dict[str, Any]:
    """COCO's average precisions of a run on its validation part, 0..1, and those of each class.

    None where the part has no box of that size or class.
    """
    check_trained(run)
    config = _runnable(run)
    config.load_from = str(run.checkpoint)
    progress = ProgressHook()
    with quiet(run.folder), borrowed_generators():
        runner = Runner.from_cfg(config)
        runner.register_hook(progress)
        with contextlib.closing(progress):
            metrics = runner.test()
    return _precisions(run, metrics)


def describe_run(run: DetectRun) -> dict[str, Any]:
    """What is trained: network, and FLOPs and params of the whole detector at `input` (h, w)."""
    backbone, size = run.config.model.backbone, input_size(run.config)
    with quiet(run.folder), borrowed_generators():
        cost = detector_cost(run.config, *size)
    return {
        "config": run.settings.config,
        "space": backbone.space["name"] if "space" in backbone else None,
        "arch": backbone.get("arch"),
        "input": list(size),
        **{name: _by_part(cost, name) for name in ("flops", "params")},
    }


def input_size(config: Config) -> tuple[int, int]:
    """Height and width of what the detector is tested on: its Resize, padded as it pads.

    Raises BadInput for a config without that step.
    """
    pipeline = config.test_dataloader.dataset.pipeline
    scale = next((step.scale for step in pipeline if step.type == "Resize"), None)
    if scale is None:
        raise BadInput("the config's test_dataloader.dataset.pipeline has no step of type Resize")
    divisor = config.model.data_preprocessor.get("pad_size_divisor", 1)
    width, height = (-(-side // divisor) * divisor for side in scale)
    return height, width


def _by_part(cost: DetectorCost, name: str) -> dict[str, int]:
    parts = ("total", "backbone", "neck", "head")
    return {part: getattr(getattr(cost, part), name) for part in parts}


def _precisions(run: DetectRun, metrics: dict[str, float]) -> dict[str, Any]:
    # mmdet measures nothing where nothing was detected; COCO says -1 where there is no box.
    def read(name: str) -> float | None:
        value = float(metrics.get(f"coco/{name}", 0.0))
        return value if value >= 0 else None

    classes = {name: read(f"{name}_precision") for name in run.data.classes}
    return {title: read(name) for title, name in _PRECISIONS.items()} | {"classes": classes}


def _runnable(run: DetectRun) -> Config:
    """The config of a run as the runner takes it: places, seed, and all that is to be measured."""
    config = run.config
    config.work_dir = str(run.folder / "mmengine")
    config.randomness = {"seed": run.settings.seed}
    # mmengine's loggers and visualizers of one name are one.
    config.experiment_name = config.visualizer.name = str(time.time_ns())
    # Workers that live on would carry their generators from one epoch into the next.
    config.train_dataloader.persistent_workers = False
    for evaluator in (config.val_evaluator, config.test_evaluator):
        if evaluator.type == "CocoMetric":
            evaluator.classwise = True
    return Config(config.to_dict())


@contextlib.contextmanager
def quiet(folder: Path) -> Iterator[None]:
    """What mmengine and pycocotools print, and warnings, go to a file of the run folder."""
    path = folder / "mmengine" / "printed.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        path.open("a", encoding="utf-8") as file,
        contextlib.redirect_stdout(file),
        warnings.catch_warnings(),
    ):
        warnings.showwarning = lambda message, category, name, line, *_: print(
            warnings.formatwarning(message, category, name, line), file=file
        )
        yield
        logger = MMLogger.get_current_instance()
        for handler in list(logger.handlers):
            if getattr(handler, "stream", None) is file:  # made meanwhile, for what was stdout
                logger.removeHandler(handler)
