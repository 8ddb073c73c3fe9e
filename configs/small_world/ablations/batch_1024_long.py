# Batches of 1024; as many iterations, so four times the samples.
_base_ = ['../pacl.py']
train_dataloader = dict(batch_size=1024)
