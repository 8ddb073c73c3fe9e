_base_ = [
    '_base_/models/pacl_vitb16.py',
    '_base_/datasets/coco_stuff171.py',
    '_base_/default_runtime.py',
]
model = dict(decode_head=dict(dataset_name='coco_stuff171', logit_scale=40.0))
