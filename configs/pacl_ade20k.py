_base_ = [
    '_base_/models/pacl_vitb16.py',
    '_base_/datasets/ade20k.py',
    '_base_/default_runtime.py',
]
model = dict(decode_head=dict(dataset_name='ade20k', logit_scale=40.0))
