# pacl_vitb16_30m.py on one large GPU, its batch of 4096 in one process: frozen towers
# and the compatibility function's products in bfloat16, the towers compiled. Trained
# weights, similarities and the loss stay float32.
_base_ = ['pacl_vitb16_30m.py']
model = dict(
    encoder=dict(dtype='bfloat16', compile=True),
    decode_head=dict(
        text_encoder=dict(batch_size=1024),
        compatibility=dict(matmul_dtype='bfloat16'),
    ),
)
# bfloat16 has the range of float32: a loss scale would only make the GPU wait.
optim_wrapper = dict(
    type='AmpOptimWrapper', dtype='bfloat16', loss_scale=dict(enabled=False)
)
# The images of a batch take 616 MB (4096 x 3 x 224 x 224 bytes), and every worker keeps
# one batch ready in shared memory: /dev/shm needs 10 GB (16 x 616 MB), and as much
# again for every further one of `prefetch_factor`.
train_dataloader = dict(batch_size=4096, num_workers=16, prefetch_factor=1)
