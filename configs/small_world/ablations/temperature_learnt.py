# Temperature of the loss learnt from 0.07, as CLIP's: without decay, and ten times as
# fast as the embedder, as 150 iterations are few for a logarithm.
_base_ = ['../pacl.py']
model = dict(decode_head=dict(loss_decode=dict(learnable=True)))
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={'log_logit_scale': dict(lr_mult=10.0, decay_mult=0.0)}
    )
)
