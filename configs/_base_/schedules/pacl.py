# The paper's optimizer. max_iters is set by the experiment; the cosine follows it.
max_iters = 1000
train_cfg = dict(type='PretrainLoop', max_iters=max_iters, val_interval=max_iters)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(
        type='AdamW', lr=5e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.2
    ),
)
param_scheduler = [dict(type='CosineAnnealingLR', eta_min=0.0, begin=0, by_epoch=False)]
default_hooks = dict(
    runtime_info=dict(type='LossWatchHook'),
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    # Every 240 iterations; every 1000 where a tower is trained.
    checkpoint=dict(type='PretrainCheckpointHook', interval=None, max_keep_ckpts=3),
    pretrain=dict(type='PretrainHook', report_interval=1000),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='PretrainVisualizationHook'),
)
