# Softmax weight scale 1, what accounts of the paper say.
_base_ = ['../pacl.py']
model = dict(decode_head=dict(compatibility=dict(weight_scale=1.0)))
