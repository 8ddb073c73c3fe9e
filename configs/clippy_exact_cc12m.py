# kahnchana/clippy's recipe: 8 x 1024 pairs, captions alone, float32. Its 5,000
# iterations end within the warm-up of 10,000, which a cosine would follow until the end
# of 32 epochs. As released patches are not dropped; the paper's share is
# `model.backbone.patch_drop_rate=0.5`.
_base_ = [
    '_base_/models/clippy_exact_vitb16.py',
    '_base_/datasets/cc12m.py',
    '_base_/schedules/pacl.py',
    '_base_/default_runtime.py',
]
train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type='LoadPILImage'),
            dict(type='PickCaption'),
            dict(type='CLIPResizeCrop', crop='random', scale=(0.9, 1.0)),
            dict(type='TokenizeCaption'),
            dict(type='PackImageText'),
        ]
    )
)
train_cfg = dict(max_iters=5000, val_interval=5000)
optim_wrapper = dict(
    # Defaults of open_clip for a model without "vit" in its name.
    optimizer=dict(betas=(0.9, 0.999), eps=1e-8),
    # Biases, norms and the scale do not decay.
    paramwise_cfg=dict(
        flat_decay_mult=0.0, custom_keys={'log_logit_scale': dict(decay_mult=0.0)}
    ),
)
warmup, steps = 10_000, 32 * 10_968_539 // 8192
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, begin=0, end=warmup, by_epoch=False),
    dict(
        type='CosineAnnealingLR',
        T_max=steps - warmup,
        eta_min=0.0,
        begin=warmup,
        end=steps,
        by_epoch=False,
    ),
]
