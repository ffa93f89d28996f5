"""From a config to what mmengine runs, and whether that can be built at all."""

import contextlib
import logging
import pprint
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.runner import Runner

from mobilenas.base.errors import BadInput, one_line
from mobilenas.base.files import read_json
from mobilenas.base.randomness import borrowed_generators
from mobilenas.data.coco import CocoData, CocoPart
from mobilenas.detect.config import innermost
from mobilenas.detect.costs import detector_cost

_log = logging.getLogger(__name__)


def check_config(config: Config, name: str, data: CocoData) -> None:
    """Build detector, loaders, loops, optimizer and schedules of a config, and drop them.

    Logs how many training images mmdet leaves out, and why. Raises BadInput, with `name` for the
    config, for what cannot be built, for a training of no step, where no image is left, and for
    masks that the data have not.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        quiet(Path(folder)),
        borrowed_generators(),
        _errors_of_building(name),
    ):
        left_out = _left_out(config, data.train)
        _check_masks(config, data)
        detector_cost(config, *input_size(config))
        runner = Runner.from_cfg(runnable(config, Path(folder), seed=0))
        if runner.train_loop.max_iters < 1:
            raise BadInput(
                f"config {name}: train_cfg trains no step; it must train one epoch at least"
            )
        # As Runner.train does, in its order.
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        runner.scale_lr(runner.optim_wrapper, runner.auto_scale_lr)
        if runner.param_schedulers is not None:
            runner.build_param_scheduler(runner.param_schedulers)
        _ = runner.val_loop, runner.test_loop  # which builds them
    if left_out:
        _log.info(left_out)


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
    for evaluator in (config.val_evaluator, config.test_evaluator):
        if evaluator.type == "CocoMetric":
            evaluator.classwise = True
    return config


def input_size(config: Config) -> tuple[int, int]:
    """Height and width of what the detector is tested on: its Resize, padded as it pads.

    One that is tested at the images' own sizes (CenterNet) has that of training. Raises BadInput
    for a config without that step.
    """
    steps = [
        step
        for loader in (config.test_dataloader, config.train_dataloader)
        for step in innermost(loader.dataset).pipeline
    ]
    scale = next((step.scale for step in steps if step.type == "Resize"), None)
    if scale is None:
        raise BadInput("the config's test_dataloader.dataset.pipeline has no step of type Resize")
    divisor = config.model.data_preprocessor.get("pad_size_divisor", 1)
    width, height = (-(-side // divisor) * divisor for side in scale)
    return height, width


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
        try:
            yield
        finally:
            logger = MMLogger.get_current_instance()
            for handler in list(logger.handlers):
                if getattr(handler, "stream", None) is file:  # made meanwhile, for what was stdout
                    logger.removeHandler(handler)


@contextlib.contextmanager
def _errors_of_building(name: str) -> Iterator[None]:
    try:
        yield
    except BadInput:
        raise
    except Exception as error:  # wrong values of a config make mmdet and torch raise any kind
        kind = f"{type(error).__name__}: " if isinstance(error, KeyError) else ""
        raise BadInput(f"config {name}: {kind}{one_line(error)}") from None


def _left_out(config: Config, train: CocoPart) -> str:
    """What mmdet's filter_cfg leaves out of the training images, empty for nothing.

    Raises BadInput where it leaves none.
    """
    dataset = innermost(config.train_dataloader.dataset)
    wanted = dataset.get("filter_cfg") or {}
    content = read_json(train.annotations)
    images, least = content["images"], wanted.get("min_size", 0)
    boxed = {row["image_id"] for row in content["annotations"]}
    empty = {row["id"] for row in images if row["id"] not in boxed}
    if not wanted.get("filter_empty_gt"):
        empty.clear()
    small = {row["id"] for row in images if min(row["width"], row["height"]) < least}
    out = len(empty | small)
    if not out:
        return ""
    text = (
        f"{out} of {len(images)} training images left out: {len(empty)} without a box, "
        f"{len(small)} smaller than {least} px"
    )
    if out == len(images):
        raise BadInput(f"{train.annotations}: {text}; train_dataloader.dataset.filter_cfg says so")
    return text


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
