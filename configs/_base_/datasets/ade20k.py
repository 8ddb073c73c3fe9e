# ADE20K val, 150 classes; label 0, all else, is ignored.
_base_ = ['mmseg::_base_/datasets/ade20k.py', '../evaluation.py']

benchmark = 'ade20k'
data_root = '{{$PACL_DATA_ROOT:data}}/ade/ADEChallengeData2016'
resize = dict(type='Resize', scale=(2048, 336), keep_ratio=True)
load_mask = dict(type='LoadSegmentationMask', num_classes=150)
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
