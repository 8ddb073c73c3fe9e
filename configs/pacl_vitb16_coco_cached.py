# pacl_vitb16_coco.py from image tokens that tools/dataset_tools/cache_image_tokens.py
# has encoded once. 118,287 images need 35.6 GB (--dtype int8: 17.9 GB).
_base_ = ['pacl_vitb16_coco.py']
train_pipeline = [
    dict(
        type='LoadImageTokens',
        root='{{$PACL_DATA_ROOT:data}}/coco_tokens',
        # LoadPILImage and CLIPResizeCrop.
        transforms=[_base_.train_pipeline[0], _base_.train_pipeline[3]],
    ),
    *_base_.train_pipeline[1:3],
    *_base_.train_pipeline[4:],
]
train_dataloader = dict(
    # Nothing is decoded here, only tokens copied, so few workers do. The tokens of a
    # batch take 308 MB (1024 x 196 x 768 x 2 bytes; int8 is made 16 bits by then, and
    # float32 takes twice that). /dev/shm holds num_workers x prefetch_factor batches
    # and the one in use: 2.8 GB here. With less, lower either, or batch_size.
    num_workers=4,
    prefetch_factor=2,
    dataset=dict(dataset=dict(pipeline=train_pipeline)),
)
