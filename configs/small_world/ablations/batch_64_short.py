# Batches of 64; as many iterations, so a quarter of the samples.
_base_ = ['../pacl.py']
train_dataloader = dict(batch_size=64)
