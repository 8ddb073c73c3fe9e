# Pascal Context val, 59 classes; background is ignored.
_base_ = ['benchmark.py']

benchmark = 'context59'
load_mask = dict(type='LoadSegmentationMask', num_classes=59)
test_pipeline = [_base_.load_image, _base_.resize, load_mask, _base_.pack]
test_dataloader = dict(
    dataset=dict(
        type='PascalContextDataset59',
        data_root='{{$PACL_DATA_ROOT:data}}/VOCdevkit/VOC2010',
        data_prefix=dict(
            img_path='JPEGImages', seg_map_path='SegmentationClassContext'
        ),
        ann_file='ImageSets/SegmentationContext/val.txt',
        pipeline=test_pipeline,
    )
)
