# COCO-Stuff 164k val, 171 classes.
_base_ = ['mmseg::_base_/datasets/coco-stuff164k.py', '../evaluation.py']

benchmark = 'coco_stuff171'
data_root = '{{$PACL_DATA_ROOT:data}}/coco_stuff164k'
resize = dict(type='Resize', scale=(2048, 448), keep_ratio=True)
load_mask = dict(type='LoadSegmentationMask', num_classes=171)
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
