_base_ = [
    '_base_/models/pacl_vitb16.py',
    '_base_/datasets/voc21.py',
    '_base_/default_runtime.py',
]
# The paper's rule: background where the entropy over the 20 classes exceeds 1.5 nats.
# Others: rule='threshold' with a probability, or rule='none' (the word competes).
model = dict(
    decode_head=dict(
        dataset_name='voc21', background=dict(rule='entropy', threshold=1.5)
    )
)
