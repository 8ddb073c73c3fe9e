# Softmax weight scale 100: nearly the best patch alone.
_base_ = ['../pacl.py']
model = dict(decode_head=dict(compatibility=dict(weight_scale=100.0)))
