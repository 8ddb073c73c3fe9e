# An image is pooled with its own caption only, as public re-implementations do.
_base_ = ['../pacl.py']
model = dict(decode_head=dict(compatibility=dict(pooling='own_caption')))
