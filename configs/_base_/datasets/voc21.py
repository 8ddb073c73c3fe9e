# Pascal VOC 2012 val, 21 classes: class 0 is the background.
_base_ = ['voc20.py']

val_dataloader = dict(dataset=dict(type='PascalVOCDataset'))
test_dataloader = dict(dataset=dict(type='PascalVOCDataset'))
