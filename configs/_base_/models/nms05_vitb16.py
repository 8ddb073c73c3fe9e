# The pooling and embedder of NMS05/Patch-Aligned-Contrastive-Learning: weights
# sigmoid(10 cos), LayerNorm and dropout before the embedder, GELU, temperature 0.1.
# Unlike there, phi is pairwise as in the paper (there an image is pooled with its own
# caption alone), texts have no trained head, and weights and image size are CLIP's own
# (there LAION-2B's and 400 px).
_base_ = ['pacl_vitb16.py']
model = dict(
    neck=dict(pre_norm=True, dropout=0.1, act_cfg=dict(type='GELU')),
    decode_head=dict(
        compatibility=dict(mode='sigmoid', weight_scale=10.0),
        loss_decode=dict(logit_scale=10.0),
    ),
)
