"""A network of a few channels that has maps of strides 2 to 32, and what makes detectors small."""

from mobilenas.nn.saved import NetworkInfo

TINY = {
    "name": "tiny",
    "description": "five resolutions",
    "resolution": 64,
    "num_classes": 3,
    "stem": {"channels": 8, "stride": 2},
    "candidates": ["e2k3", "e2k35", "e2k5"],
    "stages": [
        {"channels": 8, "fixed": "e1k3"},
        {"channels": 12, "stride": 2},
        {"channels": 16, "stride": 2},
        {"channels": 24, "blocks": 2, "stride": 2},
        {"channels": 32, "stride": 2},
    ],
    "head": {"channels": 48},
}
ARCH = "e2k35_e2k3_e2k3_e2k5_e2k3"
INFO = NetworkInfo(("a", "b", "c"), (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))

# What makes each recipe small enough to run in a second.
SMALL = {
    "retinanet_quick": (
        "model.neck.out_channels=16",
        "model.bbox_head.in_channels=16",
        "model.bbox_head.feat_channels=16",
        "model.bbox_head.stacked_convs=1",
    ),
    "faster_rcnn_quick": (
        "model.neck.out_channels=16",
        "model.rpn_head.in_channels=16",
        "model.rpn_head.feat_channels=16",
        "model.roi_head.bbox_roi_extractor.out_channels=16",
        "model.roi_head.bbox_head.in_channels=16",
        "model.roi_head.bbox_head.fc_out_channels=32",
    ),
    "ssdlite_quick": (),
    "rtmdet_tiny_quick": (
        # Boxes of no size at the start have no overlap, and a loss of 0.
        "model.bbox_head.exp_on_reg=True",
        "model.neck.out_channels=16",
        "model.bbox_head.in_channels=16",
        "model.bbox_head.feat_channels=16",
    ),
}
