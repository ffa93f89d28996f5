"""From a config to what mmengine runs, and whether that can be built at all."""

import contextlib
import os
import pprint
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dataset import InfiniteSampler
from mmengine.logging import MMLogger
from mmengine.registry import OPTIMIZERS
from mmengine.runner import EpochBasedTrainLoop, Runner

from mobilenas.base.errors import BadInput, one_line
from mobilenas.base.files import read_json
from mobilenas.base.randomness import borrowed_generators
from mobilenas.data.coco import CocoData, CocoImage
from mobilenas.detect.config import evaluators, innermost
from mobilenas.detect.costs import detector_cost


def check_config(config: Config, name: str, data: CocoData) -> dict[str, Any]:
    """Build detector, loaders, loops, optimizer and schedules of a config, and drop them.

    Returns what `describe_data` does. Raises BadInput, with `name` for the config, for what cannot
    be built, for a training of no step, and as `check_epochs` and `describe_data` do.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        quiet(Path(folder)),
        borrowed_generators(),
        errors_of_building(name),
    ):
        found = describe_data(config, data)
        detector_cost(config, *input_size(config))
        runner = Runner.from_cfg(runnable(config, Path(folder), seed=0))
        check_epochs(config, runner, name)
        if runner.train_loop.max_iters < 1:
            raise BadInput(
                f"config {name}: train_cfg trains no step; it must train one epoch at least"
            )
        # As Runner.train does, in its order.
        _check_optimizer(runner.optim_wrapper)
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        runner.scale_lr(runner.optim_wrapper, runner.auto_scale_lr)
        if runner.param_schedulers is not None:
            runner.build_param_scheduler(runner.param_schedulers)
        _ = runner.val_loop, runner.test_loop  # which builds them
    return found


def check_epochs(config: Config, runner: Runner, name: str) -> None:
    """Raise BadInput, with `name` for the config, unless training and its checkpoints go by epochs:
    a run that is continued starts its generators and its loader anew, as an epoch does.
    """
    loop, loader = runner.train_loop, runner.train_loop.dataloader
    sampler = getattr(loader.batch_sampler, "sampler", loader.sampler)
    if not isinstance(loop, EpochBasedTrainLoop):
        raise BadInput(
            f"config {name}: train_cfg is {type(loop).__name__}, which cannot be continued to the "
            "same weights; it must be an EpochBasedTrainLoop, with max_epochs"
        )
    if isinstance(sampler, InfiniteSampler):
        raise BadInput(
            f"config {name}: train_dataloader.sampler is InfiniteSampler, with which no epoch ends;"
            " DefaultSampler must be there"
        )
    if not checkpoint_hook(config).get("by_epoch", True):
        raise BadInput(
            f"config {name}: default_hooks.checkpoint.by_epoch must be True: a training is "
            "continued from the end of an epoch"
        )


def checkpoint_hook(config: Config) -> dict[str, Any]:
    """What a config says of its checkpoints."""
    return (config.get("default_hooks") or {}).get("checkpoint") or {}


class PlainConfig(Config):
    """A config that is written by pprint: mmengine has each formatted by yapf, three times for a
    runner, which takes longer than all else that building one does.
    """

    @property
    def pretty_text(self) -> str:
        """The config as Python, which `Config.fromfile` reads."""
        return "".join(
            f"{key} = {pprint.pformat(value, width=100, sort_dicts=False)}\n"
            for key, value in self.to_dict().items()
        )


def runnable(config: Config, folder: Path, seed: int) -> Config:
    """A copy of a config as the runner takes it: places in a run folder, seed, all that is to be
    measured.
    """
    config = PlainConfig(config.to_dict())
    config.work_dir = str(folder / "mmengine")
    config.randomness = {"seed": seed}
    # mmengine's loggers and visualizers of one name are one.
    config.experiment_name = config.visualizer.name = str(time.time_ns())
    # Workers that live on would carry their generators from one epoch into the next.
    config.train_dataloader.persistent_workers = False
    for evaluator in evaluators(config):
        if evaluator.type == "CocoMetric":
            evaluator.classwise = True
            if isinstance(evaluator.get("metric"), list):
                # The precisions of classes have one name for boxes and masks; the last ones stay.
                evaluator.metric = sorted(evaluator.metric, key="bbox".__eq__)
    return config


def input_size(config: Config) -> tuple[int, int]:
    """Height and width of what the detector is tested on: its Resize, padded as it pads.

    One that is tested at the images' own sizes (CenterNet) has that of training. Raises BadInput
    for a config without that step.
    """
    both = config.test_dataloader, config.train_dataloader
    scale = next((scale for loader in both if (scale := _scale(loader)) is not None), None)
    if scale is None:
        raise BadInput("the config's test_dataloader.dataset.pipeline has no step of type Resize")
    divisor = config.model.data_preprocessor.get("pad_size_divisor", 1)
    width, height = (-(-side // divisor) * divisor for side in scale)
    return height, width


def check_size(config: Config, name: object, width: int, height: int) -> None:
    """Raise BadInput, with this name, for an image so thin that its resized form is empty."""
    scale = _scale(config.test_dataloader)
    if scale is None:
        return
    factor = min(max(scale) / max(width, height), min(scale) / min(width, height))
    if min(width, height) * factor < 0.5:  # mmcv rounds, and OpenCV makes no image of 0 pixels
        raise BadInput(
            f"{name}: {width} x {height} pixels, of whose shorter side nothing is left when it is "
            f"fitted into {scale[0]} x {scale[1]}; cut it into parts"
        )


def describe_data(config: Config, data: CocoData) -> dict[str, Any]:
    """What there is in the data of a detector, as counts, and what mmdet leaves out of it.

    Raises BadInput where no training image is left, for an image that cannot be tested on, and
    where there are no masks for a detector that learns them.
    """
    _check_masks(config, data)
    found: dict[str, Any] = {"classes": list(data.classes)}
    for name, content in zip(("train", "val"), data.content, strict=True):
        out = {"crowds": content.crowds, "flat boxes": content.flat}
        counts = {"images": len(content.images), "annotations": content.annotations}
        found[name] = {**counts, "left_out": out}
    train, val = (content.images for content in data.content)
    found["train"]["left_out"] |= _images_left_out(config, data.train.annotations, train)
    for image in val:
        check_size(config, data.val.images / image.name, image.width, image.height)
    return found


@contextlib.contextmanager
def quiet(folder: Path) -> Iterator[None]:
    """What mmengine and pycocotools print, and warnings, go to a file of the run folder; nowhere
    where it cannot be written: to use a detector of others takes no more than to read it.
    """
    path = folder / "mmengine" / "printed.txt"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a"):
            pass
    except OSError:
        path = Path(os.devnull)
    with (
        path.open("a", encoding="utf-8") as file,
        contextlib.redirect_stdout(file),
        warnings.catch_warnings(),
    ):
        warnings.showwarning = lambda message, category, name, line, *_: print(
            warnings.formatwarning(message, category, name, line), file=file
        )
        try:
            yield
        finally:
            logger = MMLogger.get_current_instance()
            for handler in list(logger.handlers):
                if getattr(handler, "stream", None) is file:  # made meanwhile, for what was stdout
                    logger.removeHandler(handler)


@contextlib.contextmanager
def errors_of_building(name: str) -> Iterator[None]:
    """Whatever goes wrong is BadInput, with `name` for the config."""
    try:
        yield
    except BadInput:
        raise
    except Exception as error:  # wrong values of a config make mmdet and torch raise any kind
        kind = f"{type(error).__name__}: " if isinstance(error, KeyError) else ""
        raise BadInput(f"config {name}: {kind}{one_line(error)}") from None


def _check_optimizer(wrapper: Config) -> None:
    """Raise BadInput for an optimizer that mmengine does not know, for which it says None."""
    name = (wrapper.get("optimizer") or {}).get("type")
    if isinstance(name, str) and OPTIMIZERS.get(name) is None:
        raise BadInput(f"optim_wrapper.optimizer.type: {name}: there is no such optimizer")


def _scale(loader: Config) -> tuple[int, int] | None:
    """Width and height that images are fitted into."""
    steps = innermost(loader.dataset).pipeline
    return next((step.scale for step in steps if step.type == "Resize"), None)


def _images_left_out(
    config: Config, annotations: Path, images: Sequence[CocoImage]
) -> dict[str, int]:
    """How many training images mmdet's filter_cfg leaves out, by what they are.

    Raises BadInput where it leaves none.
    """
    chosen = innermost(config.train_dataloader.dataset).get("filter_cfg") or {}
    least = chosen.get("min_size", 0)
    large = [image for image in images if min(image.width, image.height) >= least]
    empty = [image for image in large if chosen.get("filter_empty_gt") and not image.boxes]
    counts = {
        "images without a box": len(empty),
        f"images smaller than {least} px": len(images) - len(large),
    }
    if sum(counts.values()) == len(images):
        raise BadInput(
            f"{annotations}: {len(images)} of {len(images)} training images left out: "
            f"{', '.join(f'{count} {what}' for what, count in counts.items())}; "
            "train_dataloader.dataset.filter_cfg says so"
        )
    return counts


def _check_masks(config: Config, data: CocoData) -> None:
    """Raise BadInput where a detector learns masks and annotations have none."""
    steps = innermost(config.train_dataloader.dataset).pipeline
    if not any(step.get("with_mask") for step in steps):
        return
    for part in (data.train, data.val):
        rows = read_json(part.annotations)["annotations"]
        lacking = [row["id"] for row in rows if not row.get("segmentation")]
        if lacking:
            raise BadInput(
                f"{part.annotations}: {config.model.type} learns masks, and {len(lacking)} of "
                f"{len(rows)} annotations have no segmentation (the first: {lacking[0]}); it must "
                "be polygons or RLE, as in COCO"
            )
