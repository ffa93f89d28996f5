# RetinaNet small enough for a CPU: 320 px, a narrow neck and head, 4 epochs, float32.
_base_ = ["retinanet.py", "_cpu.py"]

model = dict(
    neck=dict(out_channels=64),
    bbox_head=dict(in_channels=64, feat_channels=64, stacked_convs=2),
)

train_dataloader = {{_base_.cpu.train_dataloader}}
val_dataloader = {{_base_.cpu.val_dataloader}}
test_dataloader = {{_base_.cpu.val_dataloader}}

train_cfg = dict(max_epochs=4, val_interval=1)
optim_wrapper = {{_base_.cpu.fine_tuning}}
param_scheduler = {{_base_.cpu.param_scheduler}}
auto_scale_lr = dict(enable=False)
default_hooks = {{_base_.cpu.default_hooks}}
