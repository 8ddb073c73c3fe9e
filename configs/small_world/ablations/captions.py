# Captions alone.
_base_ = ['../pacl.py']
train_pipeline = _base_.train_pipeline
train_pipeline[0].prob = 0.0
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))
