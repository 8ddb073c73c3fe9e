# CLIPpy's pooling in place of PACL's: maximum over patch tokens, learnt logit scale.
_base_ = ['pacl.py']
model = dict(
    decode_head=dict(
        compatibility=dict(mode='max', weight_scale=None),
        loss_decode=dict(learnable=True),
    )
)
