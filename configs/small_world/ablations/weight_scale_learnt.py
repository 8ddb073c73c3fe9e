# Softmax weight scale learnt, from 10: without decay, and ten times as fast as the
# embedder, as 150 iterations are few for a logarithm.
_base_ = ['../pacl.py']
model = dict(decode_head=dict(compatibility=dict(learnable=True)))
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={'log_weight_scale': dict(lr_mult=10.0, decay_mult=0.0)}
    )
)
