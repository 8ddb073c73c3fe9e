# An image is pooled with its own caption only, and captions alone are the texts.
_base_ = ['captions.py']
model = dict(decode_head=dict(compatibility=dict(pooling='own_caption')))
