# Both towers of the tiny CLIP from random weights, by PACL's compatibility alone.
_base_ = ['scratch_cls.py']
model = dict(decode_head=dict(compatibility=dict(mode='softmax', weight_scale=10.0)))
