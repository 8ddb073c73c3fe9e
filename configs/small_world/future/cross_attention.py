# Tokens and words attend to each other before they are compared: one layer, as wide as
# the space of the texts. Batches of 16, as every pair goes through the layer.
_base_ = ['batch_16.py']
model = dict(
    decode_head=dict(
        compatibility=dict(
            _delete_=True, type='CrossAttentionCompatibility', embed_dims=64
        )
    )
)
