# All that nms05_exact_vitb16.py changes, on the tiny CLIP: an image is pooled for its
# own text alone, texts have a trained head, equal texts are negatives of each other.
_base_ = ['nms05.py']
model = dict(
    decode_head=dict(
        text_projector=dict(
            type='PatchEmbedder',
            in_channels=64,
            out_channels=64,
            depth=0,
            pre_norm=True,
            dropout=0.1,
        ),
        compatibility=dict(pooling='own_caption'),
        loss_decode=dict(mask_duplicates=False),
    )
)
