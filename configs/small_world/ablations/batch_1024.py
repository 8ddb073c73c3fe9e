# Batches of 1024; as many samples (to the next iteration).
_base_ = ['../pacl.py']
train_dataloader = dict(batch_size=1024)
train_cfg = dict(max_iters=38)
