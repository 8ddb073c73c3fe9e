# COCO-Stuff 164k val, 171 classes.
_base_ = ['benchmark.py']

benchmark = 'coco_stuff171'
resize = dict(type='Resize', scale=(2048, 448), keep_ratio=True)
load_mask = dict(type='LoadSegmentationMask', num_classes=171)
test_pipeline = [_base_.load_image, resize, load_mask, _base_.pack]
test_dataloader = dict(
    dataset=dict(
        type='COCOStuffDataset',
        data_root='{{$PACL_DATA_ROOT:data}}/coco_stuff164k',
        data_prefix=dict(img_path='images/val2017', seg_map_path='annotations/val2017'),
        pipeline=test_pipeline,
    )
)
