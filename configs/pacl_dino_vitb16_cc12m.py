# The recipe of pacl_vitb16_30m.py on CC12M, between DINO's ViT-B/16 and the texts of
# CLIP ViT-B/16.
_base_ = [
    '_base_/models/pacl_dino_vitb16.py',
    '_base_/datasets/cc12m.py',
    '_base_/schedules/pacl.py',
    '_base_/default_runtime.py',
]
max_iters = 10 * _base_.num_pairs // 4096
train_cfg = dict(max_iters=max_iters)
