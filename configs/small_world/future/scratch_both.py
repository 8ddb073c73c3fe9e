# Both towers of the tiny CLIP from random weights, by both, with equal weight.
_base_ = ['scratch_phi.py']
model = dict(decode_head=dict(second_compatibility=dict(mode='cls')))
