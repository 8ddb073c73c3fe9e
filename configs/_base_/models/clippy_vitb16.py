# CLIPpy's pooling (kahnchana/clippy): the elementwise maximum over patch tokens, and a
# learnt logit scale. Here it trains the embedder on the frozen CLIP, as PACL does;
# CLIPpy itself trains both towers, from DINO and Sentence-T5.
_base_ = ['pacl_vitb16.py']
model = dict(
    decode_head=dict(
        compatibility=dict(mode='max', weight_scale=None),
        loss_decode=dict(learnable=True),
    )
)
