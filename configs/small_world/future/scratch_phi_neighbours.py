# By PACL's compatibility, and beside it a self-supervised loss of the patch tokens.
_base_ = ['scratch_phi.py']
model = dict(auxiliary_head=dict(type='NeighbourContrastHead', loss_weight=0.3))
