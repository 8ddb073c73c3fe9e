_base_ = [
    '_base_/models/pacl_vitb16.py',
    '_base_/datasets/context59.py',
    '_base_/default_runtime.py',
]
model = dict(decode_head=dict(dataset_name='context59', logit_scale=40.0))
