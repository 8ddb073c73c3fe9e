# Pascal VOC 2012 val, 21 classes: class 0 is the background.
_base_ = ['voc20.py']

benchmark = 'voc21'
load_mask = dict(type='LoadSegmentationMask', num_classes=21)
test_pipeline = [_base_.load_image, _base_.resize, load_mask, _base_.pack]
test_dataloader = dict(dataset=dict(type='PascalVOCDataset', pipeline=test_pipeline))
