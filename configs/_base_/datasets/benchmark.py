# What testing on all benchmarks has in common. Each adds its name, its files, and a
# pipeline of these steps around the loading of its masks.
load_image = dict(type='LoadImageFromFile')
resize = dict(type='Resize', scale=(2048, 336), keep_ratio=True)
pack = dict(type='PackSegInputs')
test_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
)
# The standard and the present-classes protocol, in one pass. The last metric is that of
# whole images with model.test_cfg.mode=whole model.test_cfg.token_labels=True.
test_evaluator = [
    dict(type='IoUMetric', iou_metrics=['mIoU']),
    dict(type='PresentClassesIoUMetric', iou_metrics=['mIoU']),
    dict(type='TokenAccuracy'),
]
test_cfg = dict(type='TestLoop')
