_base_ = [
    '_base_/models/pacl_vitb16.py',
    '_base_/datasets/context60.py',
    '_base_/default_runtime.py',
]
# Background competes by its names, and is also where no class is probable.
model = dict(
    decode_head=dict(dataset_name='context60', logit_scale=50.0),
    test_cfg=dict(background=dict(rule='probability', threshold=0.1)),
)
