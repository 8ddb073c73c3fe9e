# COCO 2017 val, 81 classes: the background is class 0, then 80 things.
_base_ = ['mmseg::_base_/datasets/coco-stuff164k.py', '../evaluation.py']

benchmark = 'coco_object'
data_root = '{{$PACL_DATA_ROOT:data}}/coco_stuff164k'
resize = dict(type='Resize', scale=(2048, 336), keep_ratio=True)
load_mask = dict(type='LoadSegmentationMask', num_classes=81)
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
    dataset=dict(type='COCOObjectDataset', data_root=data_root, pipeline=test_pipeline)
)
test_dataloader = val_dataloader
val_evaluator = _base_.metrics
test_evaluator = val_evaluator
