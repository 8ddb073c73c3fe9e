# pacl_vitb16_30m.py on one large GPU, its batch of 4096 in one process: frozen towers
# and the compatibility function's products in bfloat16, the towers compiled. Trained
# weights, similarities and the loss stay float32.
_base_ = ['pacl_vitb16_30m.py']
model = dict(
    data_preprocessor=dict(dtype='bfloat16'),
    backbone=dict(dtype='bfloat16', compile=True),
    decode_head=dict(
        text_encoder=dict(dtype='bfloat16', compile=True),
        compatibility=dict(matmul_dtype='bfloat16'),
    ),
)
# bfloat16 has the range of float32: a loss scale would only make the GPU wait.
optim_wrapper = dict(
    type='AmpOptimWrapper', dtype='bfloat16', loss_scale=dict(enabled=False)
)
train_dataloader = dict(batch_size=4096, num_workers=16)
