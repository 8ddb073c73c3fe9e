# Pascal VOC 2012 val, 20 classes, background ignored. Evaluation only.
_base_ = ['mmseg::_base_/datasets/pascal_voc12.py']

scale = (2048, 336)  # short side 336, the field's protocol with windows of 224
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='Resize', scale=scale, keep_ratio=True)],
            [
                dict(type='RandomFlip', prob=0.0, direction='horizontal'),
                dict(type='RandomFlip', prob=1.0, direction='horizontal'),
            ],
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ],
    ),
]
train_dataloader = None
val_dataloader = dict(
    num_workers=2,
    dataset=dict(type='PascalVOC20Dataset', pipeline=test_pipeline),
)
test_dataloader = dict(
    num_workers=2,
    dataset=dict(type='PascalVOC20Dataset', pipeline=test_pipeline),
)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
