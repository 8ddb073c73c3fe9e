_base_ = [
    '_base_/models/pacl_vitb16.py',
    '_base_/datasets/coco_object.py',
    '_base_/default_runtime.py',
]
# Background competes by its names, and is also where no class is probable.
model = dict(
    decode_head=dict(dataset_name='coco_object', logit_scale=50.0),
    test_cfg=dict(background=dict(rule='probability', threshold=0.1)),
)
