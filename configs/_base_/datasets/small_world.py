# Procedural scenes: captions to train, exact masks to validate and test.
benchmark = 'small_world'
train_pipeline = [
    dict(type='NounPrompt', prob=1.0, templates='pacl7', nouns='given'),
    dict(type='PackImageText'),
]
train_dataloader = dict(
    batch_size=256,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DrawSampler'),
    collate_fn=dict(type='collate_image_text'),
    dataset=dict(
        type='ShuffledDraws',
        dataset=dict(
            type='SmallWorldCaptions',
            split='train',
            num_scenes=100_000,
            pipeline=train_pipeline,
        ),
    ),
)
segmentation = dict(
    type='SmallWorldSegmentation', pipeline=[dict(type='PackSegInputs')]
)
val_dataloader = dict(
    batch_size=50,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(split='val', num_scenes=300, **segmentation),
)
test_dataloader = dict(
    batch_size=50,
    num_workers=1,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(split='test', num_scenes=500, **segmentation),
)
# For image files, with MMSeg's inference_model; scenes are rendered, and have none.
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(2048, 64), keep_ratio=True),  # scenes are 64 x 64
    dict(type='PackSegInputs'),
]
# Never together in a training picture or caption: the open vocabulary.
held_out = [
    'plain red',
    'striped green',
    'checked blue',
    'dotted yellow',
    'gridded purple',
    'speckled cyan',
]
seen = [
    f'{texture} {colour}'
    for texture in ('plain', 'striped', 'checked', 'dotted', 'gridded', 'speckled')
    for colour in ('red', 'green', 'blue', 'yellow', 'purple', 'cyan')
    if f'{texture} {colour}' not in held_out
]
metrics = [
    dict(
        type='GroupIoUMetric',
        iou_metrics=['mIoU'],
        groups=dict(seen=seen, held_out=held_out),
    ),
    dict(type='PatchAccuracy', patch_size=8),
]
val_evaluator = [
    *metrics,
    dict(type='PresentClassesIoUMetric', iou_metrics=['mIoU']),
    dict(type='TokenAccuracy'),
]
test_evaluator = val_evaluator
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
