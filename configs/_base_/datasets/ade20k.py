# ADE20K val, 150 classes; label 0, all else, is ignored.
_base_ = ['benchmark.py']

benchmark = 'ade20k'
load_mask = dict(type='LoadSegmentationMask', num_classes=150)
test_pipeline = [_base_.load_image, _base_.resize, load_mask, _base_.pack]
test_dataloader = dict(
    dataset=dict(
        type='ADE20KDataset',
        data_root='{{$PACL_DATA_ROOT:data}}/ade/ADEChallengeData2016',
        data_prefix=dict(
            img_path='images/validation', seg_map_path='annotations/validation'
        ),
        pipeline=test_pipeline,
    )
)
