# Pascal VOC 2012 val, 20 classes; background is ignored.
_base_ = ['benchmark.py']

benchmark = 'voc20'
load_mask = dict(type='LoadSegmentationMask', num_classes=20)
test_pipeline = [_base_.load_image, _base_.resize, load_mask, _base_.pack]
test_dataloader = dict(
    dataset=dict(
        type='PascalVOC20Dataset',
        data_root='{{$PACL_DATA_ROOT:data}}/VOCdevkit/VOC2012',
        data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
        ann_file='ImageSets/Segmentation/val.txt',
        pipeline=test_pipeline,
    )
)
