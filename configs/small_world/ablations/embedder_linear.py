# The embedder is one linear layer.
_base_ = ['../pacl.py']
model = dict(neck=dict(depth=0))
