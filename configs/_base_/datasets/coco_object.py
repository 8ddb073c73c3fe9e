# COCO 2017 val, 81 classes: the background is class 0, then 80 things.
_base_ = ['benchmark.py']

benchmark = 'coco_object'
load_mask = dict(type='LoadSegmentationMask', num_classes=81)
test_pipeline = [_base_.load_image, _base_.resize, load_mask, _base_.pack]
test_dataloader = dict(
    dataset=dict(
        type='COCOObjectDataset',
        data_root='{{$PACL_DATA_ROOT:data}}/coco_stuff164k',
        data_prefix=dict(img_path='images/val2017', seg_map_path='annotations/val2017'),
        pipeline=test_pipeline,
    )
)
