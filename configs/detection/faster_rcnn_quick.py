# Faster R-CNN small enough for a CPU: 320 px, a narrow neck and head, few proposals, 4 epochs,
# float32.
_base_ = ["faster_rcnn.py", "_cpu.py"]

model = dict(
    neck=dict(out_channels=64),
    rpn_head=dict(in_channels=64, feat_channels=64),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64),
        bbox_head=dict(in_channels=64, fc_out_channels=256),
    ),
    train_cfg=dict(rpn_proposal=dict(max_per_img=200), rcnn=dict(sampler=dict(num=128))),
    test_cfg=dict(rpn=dict(max_per_img=200)),
)

train_dataloader = {{_base_.cpu.train_dataloader}}
val_dataloader = {{_base_.cpu.val_dataloader}}
test_dataloader = {{_base_.cpu.val_dataloader}}

train_cfg = dict(max_epochs=4, val_interval=1)
optim_wrapper = {{_base_.cpu.fine_tuning}}
param_scheduler = {{_base_.cpu.param_scheduler}}
auto_scale_lr = dict(enable=False)
default_hooks = {{_base_.cpu.default_hooks}}
