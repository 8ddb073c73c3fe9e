# Pascal VOC 2012 val, 21 classes: class 0 is the background.
_base_ = ['mmseg::_base_/datasets/pascal_voc12.py', '../evaluation.py']

benchmark = 'voc21'
data_root = '{{$PACL_DATA_ROOT:data}}/VOCdevkit/VOC2012'
resize = dict(type='Resize', scale=(2048, 336), keep_ratio=True)
load_mask = dict(type='LoadSegmentationMask', num_classes=21)
test_pipeline = [_base_.load_image, resize, load_mask, _base_.pack]
tta_pipeline = [
    _base_.load_image,
    dict(
        type='TestTimeAug',
        transforms=[[resize], _base_.flips, [load_mask], [_base_.pack]],
    ),
]
train_dataloader = None
val_dataloader = dict(dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = _base_.metrics
test_evaluator = val_evaluator
