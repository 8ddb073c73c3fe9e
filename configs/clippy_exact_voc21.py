# Tests what clippy_exact_cc12m.py trains, on VOC with its background: as released,
# `tools/test.py configs/clippy_exact_voc21.py CHECKPOINT --protocol clippy`.
_base_ = [
    '_base_/models/clippy_exact_vitb16.py',
    '_base_/datasets/voc21.py',
    '_base_/default_runtime.py',
]
model = dict(
    decode_head=dict(dataset_name='voc21', logit_scale=65.0),
    test_cfg=dict(
        background=dict(rule='probability', threshold=0.1), area_threshold=0.1
    ),
)
