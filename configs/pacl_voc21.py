_base_ = [
    '_base_/models/pacl_vitb16.py',
    '_base_/datasets/voc21.py',
    '_base_/default_runtime.py',
]
# Background competes by its names, and is also where no class is probable. Classes with
# less than a tenth of an image's foreground are left out of it.
model = dict(
    decode_head=dict(dataset_name='voc21', logit_scale=65.0),
    test_cfg=dict(
        background=dict(rule='probability', threshold=0.1), area_threshold=0.1
    ),
)
