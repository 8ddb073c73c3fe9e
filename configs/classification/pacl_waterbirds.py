_base_ = [
    '../_base_/models/pacl_vitb16_classifier.py',
    '../_base_/datasets/waterbirds.py',
    '../_base_/default_runtime.py',
]
model = dict(
    decode_head=dict(
        dataset_name=None, vocabulary=['landbird', 'waterbird'], templates='photo'
    )
)
