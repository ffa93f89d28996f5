# Faster R-CNN with a feature pyramid, 1x: as retinanet.py, but a learning rate of 0.02.
_base_ = "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"
custom_imports = dict(imports=["mobilenas.detect"])

model = dict(
    backbone=dict(
        _delete_=True,
        type="MobileNASBackbone",
        space="mobilenetv2",
        arch="_".join(["e6k3"] * 16),
        out_indices=(1, 2, 3, 4),
        frozen_stages=1,
        norm_eval=True,
    ),
    neck=dict(in_channels=[24, 32, 96, 320]),
)
auto_scale_lr = dict(enable=True)
