# CLIPpy as kahnchana/clippy releases it (at 04bf78b): DINO's ViT-B/16 and Sentence-T5,
# both trained. `pip install -e '.[text]'` for T5. Its texts are the mean over
# tokens and a linear map without bias, at random here, or Sentence-T5's own:
# `model.decode_head.text_encoder.projection=/path/to/2_Dense/pytorch_model.bin`.
_base_ = ['pacl_vitb16.py']
model = dict(
    encoder=dict(
        _delete_=True,
        vision=dict(model='timm/vit_base_patch16_224.dino', pretrained='dino'),
        text=dict(
            model=dict(
                embed_dim=768,
                # open_clip wants a vision tower beside the texts; nothing runs it.
                vision_cfg=dict(layers=1, width=64, head_width=64, patch_size=32),
                text_cfg=dict(
                    hf_model_name='sentence-transformers/sentence-t5-base',
                    hf_tokenizer_name='sentence-transformers/sentence-t5-base',
                    hf_pooler_type='mean_pooler',
                    hf_proj_type='linear',
                ),
            ),
        ),
    ),
    # It normalises images as CLIP does, not as DINO.
    data_preprocessor=dict(
        mean=[122.7709383, 116.7460125, 104.09373615],
        std=[68.5005327, 66.6321375, 70.32316305],
    ),
    backbone=dict(
        _delete_=True,
        type='TimmTower',
        frozen=False,
        output='norm',
        fit='crop',
        output_cls_token=True,
        # Its config says 0.5, which in its code never reaches a timm tower.
        patch_drop_rate=0.0,
    ),
    neck=None,
    decode_head=dict(
        text_encoder=dict(frozen=False),
        # Trained with the maximum over 197 tokens; tested with the 196 patches.
        compatibility=dict(mode='max', weight_scale=None, include_cls=True),
        loss_decode=dict(learnable=True, mask_duplicates=False),
    ),
)
