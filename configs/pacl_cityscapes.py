_base_ = [
    '_base_/models/pacl_vitb16.py',
    '_base_/datasets/cityscapes.py',
    '_base_/default_runtime.py',
]
model = dict(decode_head=dict(dataset_name='cityscapes', logit_scale=40.0))
