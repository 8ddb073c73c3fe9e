# PACL's embedder, and beside its loss a self-supervised one of the embedded tokens.
_base_ = ['batch_16.py']
model = dict(auxiliary_head=dict(type='NeighbourContrastHead', loss_weight=0.3))
