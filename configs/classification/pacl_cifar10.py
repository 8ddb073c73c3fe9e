_base_ = [
    '../_base_/models/pacl_vitb16_classifier.py',
    '../_base_/datasets/cifar10.py',
    '../_base_/default_runtime.py',
]
model = dict(decode_head=dict(dataset_name='cifar10', templates='cifar10'))
