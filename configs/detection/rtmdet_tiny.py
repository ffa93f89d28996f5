# RTMDet at 640 x 640 with the neck and head of its tiny size (Lyu et al. 2022): mmdet's recipe, 300
# epochs.
_base_ = "mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py"
custom_imports = dict(imports=["mobilenas.detect"])

model = dict(
    backbone=dict(
        _delete_=True,
        type="MobileNASBackbone",
        space="mobilenetv2",
        arch="_".join(["e6k3"] * 16),
        out_indices=(2, 3, 4),
    ),
    neck=dict(in_channels=[32, 96, 320]),
)
auto_scale_lr = dict(enable=True, base_batch_size=256)
