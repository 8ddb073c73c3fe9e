# The pooling and embedder of NMS05/Patch-Aligned-Contrastive-Learning.
_base_ = ['pacl.py']
model = dict(
    neck=dict(pre_norm=True, dropout=0.1, act_cfg=dict(type='GELU')),
    decode_head=dict(
        compatibility=dict(mode='sigmoid', weight_scale=10.0),
        loss_decode=dict(logit_scale=10.0),
    ),
)
