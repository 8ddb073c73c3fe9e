# What the configs of all benchmarks have in common.
load_image = dict(type='LoadImageFromFile')
pack = dict(type='PackSegInputs')
flips = [
    dict(type='RandomFlip', prob=0.0, direction='horizontal'),
    dict(type='RandomFlip', prob=1.0, direction='horizontal'),
]
# The standard and the present-classes protocol, in one pass.
metrics = [
    dict(type='IoUMetric', iou_metrics=['mIoU']),
    dict(type='PresentClassesIoUMetric', iou_metrics=['mIoU']),
]
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
