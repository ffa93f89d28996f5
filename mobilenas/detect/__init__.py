"""Detectors of mmdet on the networks of a space. Importing this registers all there is.

mmdet then finds the backbone `MobileNASBackbone` and mmengine reads our saved networks; mmcv-lite
serves for mmcv. Raises BadInput when the packages of the extra `detect` are not installed.
"""

from mobilenas.detect.compat import prepare

prepare()

from mobilenas.detect import checkpoint  # noqa: E402  (mmdet imports only once it is prepared)
from mobilenas.detect.backbone import MobileNASBackbone  # noqa: E402

checkpoint.register()

__all__ = ["MobileNASBackbone"]
