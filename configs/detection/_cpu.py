# What the quick recipes share, under one key: images of 320 px, loaders without worker processes,
# AdamW, a short warm-up, and a cosine to the last epoch.
cpu = dict(
    train_dataloader=dict(
        batch_size=4,
        num_workers=0,
        persistent_workers=False,
        dataset=dict(
            pipeline=[
                dict(type="LoadImageFromFile"),
                dict(type="LoadAnnotations", with_bbox=True),
                dict(type="Resize", scale=(320, 320), keep_ratio=True),
                dict(type="RandomFlip", prob=0.5),
                dict(type="PackDetInputs"),
            ]
        ),
    ),
    val_dataloader=dict(
        batch_size=4,
        num_workers=0,
        persistent_workers=False,
        dataset=dict(
            pipeline=[
                dict(type="LoadImageFromFile"),
                dict(type="Resize", scale=(320, 320), keep_ratio=True),
                dict(type="LoadAnnotations", with_bbox=True),
                dict(
                    type="PackDetInputs",
                    meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
                ),
            ]
        ),
    ),
    optim_wrapper=dict(
        _delete_=True,
        type="OptimWrapper",
        optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
        clip_grad=dict(max_norm=10),
    ),
    param_scheduler=[
        dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=20),
        dict(type="CosineAnnealingLR", eta_min=1e-5, convert_to_iter_based=True),
    ],
    default_hooks=dict(logger=dict(interval=10), checkpoint=dict(interval=1, max_keep_ckpts=1)),
)
# For detectors that keep the statistics of a backbone with weights: a tenth of the rate there.
cpu["fine_tuning"] = cpu["optim_wrapper"] | dict(
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1)))
)
