# Batches of 64; as many samples as batches of 256 take.
_base_ = ['../pacl.py']
train_dataloader = dict(batch_size=64)
train_cfg = dict(max_iters=600)
