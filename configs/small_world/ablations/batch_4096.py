# Batches of 4096; as many samples (to the next iteration).
_base_ = ['../pacl.py']
train_dataloader = dict(batch_size=4096)
train_cfg = dict(max_iters=10)
