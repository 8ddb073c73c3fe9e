# Temperature of the loss 0.1, fixed.
_base_ = ['../pacl.py']
model = dict(decode_head=dict(loss_decode=dict(logit_scale=1 / 0.1)))
