# SSDLite on a CPU: 4 epochs of one pass, float32.
_base_ = ["ssdlite.py", "_cpu.py"]

train_dataloader = dict(
    batch_size=8, num_workers=0, persistent_workers=False, dataset=dict(times=1)
)
val_dataloader = dict(batch_size=4, num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader

train_cfg = dict(max_epochs=4, val_interval=1)
optim_wrapper = {{_base_.cpu.optim_wrapper}}
param_scheduler = {{_base_.cpu.param_scheduler}}
auto_scale_lr = dict(enable=False)
default_hooks = {{_base_.cpu.default_hooks}}
