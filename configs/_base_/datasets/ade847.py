# ADE20K (2021_17_01) val with MaskFormer's 847 classes: 16-bit masks, 65535 is ignored.
_base_ = ['benchmark.py']

benchmark = 'ade847'
load_mask = dict(type='LoadSegmentationMask', num_classes=847, ignore_index=65535)
test_pipeline = [_base_.load_image, _base_.resize, load_mask, _base_.pack]
test_dataloader = dict(
    dataset=dict(
        type='ADE20K847Dataset',
        data_root='{{$PACL_DATA_ROOT:data}}/ADE20K_2021_17_01',
        data_prefix=dict(
            img_path='images_detectron2/validation',
            seg_map_path='annotations_detectron2/validation',
        ),
        pipeline=test_pipeline,
    )
)
test_evaluator = [dict(metric, ignore_index=65535) for metric in _base_.test_evaluator]
