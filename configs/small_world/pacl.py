# PACL's embedder on the frozen tiny CLIP, from captions and noun prompts alone.
# Learning rate and weight scale were chosen on the validation split. What it trains is
# shipped as pacl.safetensors, for Segmenter('pacl', world='small'):
# python tools/train.py configs/small_world/pacl.py
# python tools/export.py configs/small_world/pacl.py work_dirs/pacl/iter_150.pth FOLDER
# writes it as FOLDER/model.safetensors.
# Pictures (default_hooks.visualization.draw=True) are drawn on files: scenes become
# some with val_dataloader.dataset.cache_dir=DIR.
_base_ = [
    '../_base_/models/small_world.py',
    '../_base_/datasets/small_world.py',
    '../_base_/schedules/pacl.py',
    '../_base_/default_runtime.py',
]
train_cfg = dict(max_iters=150, val_interval=50)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=50))
