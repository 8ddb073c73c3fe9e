# Pascal Context val with all 459 classes: 16-bit masks, 65535 is ignored.
_base_ = ['mmseg::_base_/datasets/pascal_context.py', '../evaluation.py']

benchmark = 'pc459'
data_root = '{{$PACL_DATA_ROOT:data}}/VOCdevkit/VOC2010'
resize = dict(type='Resize', scale=(2048, 336), keep_ratio=True)
load_mask = dict(type='LoadSegmentationMask', num_classes=459, ignore_index=65535)
test_pipeline = [_base_.load_image, resize, load_mask, _base_.pack]
tta_pipeline = [
    _base_.load_image,
    dict(
        type='TestTimeAug',
        transforms=[[resize], _base_.flips, [load_mask], [_base_.pack]],
    ),
]
train_dataloader = None
val_dataloader = dict(
    dataset=dict(
        type='PascalContext459Dataset',
        data_root=data_root,
        data_prefix=dict(seg_map_path='annotations_detectron2/pc459_val'),
        pipeline=test_pipeline,
    )
)
test_dataloader = val_dataloader
val_evaluator = [dict(metric, ignore_index=65535) for metric in _base_.metrics]
test_evaluator = val_evaluator
