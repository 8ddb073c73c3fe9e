# Pascal Context val with all 459 classes: 16-bit masks, 65535 is ignored.
_base_ = ['context59.py']

benchmark = 'pc459'
load_mask = dict(type='LoadSegmentationMask', num_classes=459, ignore_index=65535)
test_pipeline = [_base_.load_image, _base_.resize, load_mask, _base_.pack]
test_dataloader = dict(
    dataset=dict(
        type='PascalContext459Dataset',
        data_prefix=dict(seg_map_path='annotations_detectron2/pc459_val'),
        pipeline=test_pipeline,
    )
)
test_evaluator = [dict(metric, ignore_index=65535) for metric in _base_.test_evaluator]
