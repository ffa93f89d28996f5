"""What makes mmdet 3.3 run beside a current torch with no compiler: see `prepare`."""

import importlib.util
import pickle
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from mobilenas.base.errors import BadInput, one_line
from mobilenas.base.files import read_json

_PACKAGES = ("mmdet", "mmengine", "mmcv", "pycocotools", "pkg_resources")


class _OpsFinder:
    """Finds `mmcv._ext` in ops.py. It stands last, so a compiled mmcv is found before it."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "mmcv._ext":
            return None
        return importlib.util.spec_from_file_location(name, Path(__file__).with_name("ops.py"))


def prepare() -> None:
    """Serve mmcv's ops, repair what mmdet 3.3 has broken; once is enough.

    Raises BadInput when the packages of the extra `detect`, or what they need, are not installed.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise BadInput(
            f"detection needs {', '.join(missing)}, not installed: "
            "pip install '.[detect]' in the checkout"
        )
    try:
        import cv2  # noqa: F401
    except ImportError as error:
        raise BadInput(
            f"opencv does not import ({one_line(error)}); it needs the system's libGL and libglib: "
            "on Debian apt install libgl1 libglib2.0-0"
        ) from None
    _import_yapf()
    # mmengine says so at every import; setuptools is pinned below the release that drops it.
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
    if _OpsFinder in sys.meta_path:
        return
    sys.meta_path.append(_OpsFinder)
    _repair_ssd()
    _read_annotations()
    _import_in_workers()


def _import_yapf(tries: int = 50) -> None:
    """Import what mmengine imports, though another process writes yapf's cache meanwhile.

    yapf renames the cache of its grammar into place before it has flushed it, so of two processes
    that start on a fresh machine one may read a part of it.
    """
    for _ in range(tries):
        try:
            import yapf  # noqa: F401
        except (EOFError, pickle.UnpicklingError) as error:
            reason = one_line(error)
            time.sleep(0.1)
        else:
            return
    raise BadInput(
        f"yapf, which mmdet needs, cannot read its cache ({reason}): "
        "remove the folder YAPF from your caches, on Linux ~/.cache/YAPF"
    )


def _repair_ssd() -> None:
    # Its predict reads loss_cls, which it never sets (open-mmlab/mmdetection#11780).
    from mmdet.models import SSDHead

    SSDHead.loss_cls = None


def _read_annotations() -> None:
    # It opens the file as plain text of the locale, and refuses a byte order mark.
    from pycocotools.coco import COCO

    def read(self: Any, annotation_file: str | None = None) -> None:
        plain(self)
        if annotation_file is not None:
            self.dataset = read_json(Path(annotation_file))
            self.createIndex()

    plain, COCO.__init__ = COCO.__init__, read


def _import_in_workers() -> None:
    """Let a spawned data-loader worker import this package before it unpickles a dataset.

    The worker is a fresh process, and the modules of mmdet's datasets import mmcv's ops. A pickle
    imports the function that rebuilds an object before it imports the object's class.
    """
    from mmengine.dataset import BaseDataset

    def reduce(self: Any, protocol: Any) -> tuple[Any, ...]:
        reduced: Any = object.__reduce_ex__(self, protocol)
        rebuild, arguments, *state = reduced
        return (_rebuild, (rebuild, *arguments), *state)

    BaseDataset.__reduce_ex__ = reduce


def _rebuild(rebuild: Callable[..., Any], *arguments: Any) -> Any:
    return rebuild(*arguments)
