# Softmax weight scale learnt, from 1.
_base_ = ['weight_scale_learnt.py']
model = dict(decode_head=dict(compatibility=dict(weight_scale=1.0)))
