# SSDLite at 320 x 320 (Sandler et al. 2018): mmdet's recipe, 120 epochs of 5 passes. Unlike there,
# the last map of the backbone is taken before the 1x1 convolution to 1280 channels.
_base_ = "mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py"
custom_imports = dict(imports=["mobilenas.detect"])

model = dict(
    backbone=dict(
        _delete_=True,
        type="MobileNASBackbone",
        space="mobilenetv2",
        arch="_".join(["e6k3"] * 16),
        out_indices=(3, 4),
    ),
    neck=dict(in_channels=(96, 320), out_channels=(96, 320, 512, 256, 256, 128)),
    bbox_head=dict(in_channels=(96, 320, 512, 256, 256, 128)),
)
auto_scale_lr = dict(enable=True)
