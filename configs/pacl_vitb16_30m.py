# The recipe of the PACL paper (CVPR 2023) on its data, CC3M + CC12M + YFCC15M: global
# batch 4096 (1024 x 4 GPUs), AdamW, 10 epochs, cosine over all iterations, 224 px,
# captions and noun prompts.
_base_ = [
    '_base_/models/pacl_vitb16.py',
    '_base_/datasets/cc30m.py',
    '_base_/schedules/pacl.py',
    '_base_/default_runtime.py',
]
max_iters = 10 * _base_.num_pairs // 4096
train_cfg = dict(max_iters=max_iters)
