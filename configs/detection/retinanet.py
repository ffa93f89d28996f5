# RetinaNet with a feature pyramid, 1x, as in published tables of mobile backbones on COCO: 12
# epochs, SGD 0.9, weight decay 1e-4, learning rate 0.01 for 16 images a step (scaled to what the
# devices take), a tenth of it from epochs 8 and 11.
_base_ = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"
custom_imports = dict(imports=["mobilenas.detect"])

model = dict(
    backbone=dict(
        _delete_=True,
        type="MobileNASBackbone",
        space="mobilenetv2",
        arch="_".join(["e6k3"] * 16),
        out_indices=(2, 3, 4),
        frozen_stages=1,
        norm_eval=True,
    ),
    neck=dict(in_channels=[32, 96, 320], start_level=0),
)
auto_scale_lr = dict(enable=True)
