# RTMDet small enough for a CPU: 320 px, no mosaic and mixup, 4 epochs, float32.
_base_ = ["rtmdet_tiny.py", "_cpu.py"]

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="Resize", scale=(320, 320), keep_ratio=False),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(320, 320), keep_ratio=False),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(
        type="PackDetInputs",
        meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
    ),
]

train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    pin_memory=False,
    dataset=dict(pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=4, num_workers=0, persistent_workers=False, dataset=dict(pipeline=test_pipeline)
)
test_dataloader = val_dataloader

train_cfg = dict(_delete_=True, type="EpochBasedTrainLoop", max_epochs=4, val_interval=1)
optim_wrapper = {{_base_.cpu.optim_wrapper}}
param_scheduler = {{_base_.cpu.param_scheduler}}
auto_scale_lr = dict(enable=False)
default_hooks = {{_base_.cpu.default_hooks}}
custom_hooks = []
