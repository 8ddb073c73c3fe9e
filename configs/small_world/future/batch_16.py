# PACL with the batches that cross-attention takes: what that is compared with.
_base_ = ['../pacl.py']
train_dataloader = dict(batch_size=16)
train_cfg = dict(max_iters=250, val_interval=250)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
