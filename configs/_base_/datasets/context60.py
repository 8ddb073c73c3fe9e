# Pascal Context val, 60 classes: class 0 is the background.
_base_ = ['context59.py']

benchmark = 'context60'
load_mask = dict(type='LoadSegmentationMask', num_classes=60)
test_pipeline = [_base_.load_image, _base_.resize, load_mask, _base_.pack]
test_dataloader = dict(
    dataset=dict(type='PascalContextDataset', pipeline=test_pipeline)
)
