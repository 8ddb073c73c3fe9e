# PACL's embedder on the frozen tiny CLIP, from captions and noun prompts alone.
_base_ = [
    '../_base_/models/small_world.py',
    '../_base_/datasets/small_world.py',
    '../_base_/schedules/pacl.py',
    '../_base_/default_runtime.py',
]
max_iters = 300
train_cfg = dict(max_iters=max_iters, val_interval=100)
default_hooks = dict(checkpoint=dict(interval=100))
