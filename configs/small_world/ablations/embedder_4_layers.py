# The main branch of the embedder has four linear layers.
_base_ = ['../pacl.py']
model = dict(neck=dict(depth=4))
