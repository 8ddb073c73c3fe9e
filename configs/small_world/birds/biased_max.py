# biased.py, pooled as CLIPpy pools: by the maximum over the patch tokens.
_base_ = ['biased.py']
model = dict(decode_head=dict(compatibility=dict(mode='max', weight_scale=None)))
