# Temperature of the loss 0.03, fixed.
_base_ = ['../pacl.py']
model = dict(decode_head=dict(loss_decode=dict(logit_scale=1 / 0.03)))
