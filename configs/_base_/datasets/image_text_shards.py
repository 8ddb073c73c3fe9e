# What pretraining on tar shards has in common: jpg + txt (+ json), 10,000 pairs in a
# shard, as img2dataset writes them.
train_pipeline = [
    # Photographs are decoded at a half, a quarter, ..., where that leaves twice CLIP's
    # 224 px of the shorter side (so from 896 px on): mean difference below 1/255.
    # `min_size=None` decodes all at full size.
    dict(type='LoadPILImage', min_size=448, jpeg_decoder='torchvision'),
    dict(type='PickCaption'),
    dict(type='NounPrompt', prob=0.5, templates='pacl7'),
    # `backend='pillow'` is open_clip's pixel for pixel, and several times slower.
    # This step and the next go by model.encoder.
    dict(type='CLIPResizeCrop', crop='center', backend='torch'),
    dict(type='TokenizeCaption'),
    dict(type='PackImageText'),
]
train_dataloader = dict(
    batch_size=1024,  # of each process; the paper's is 4 x 1024
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    sampler=None,
    drop_last=True,
    collate_fn=dict(type='collate_image_text'),
    dataset=dict(type='ImageTextShards', shuffle_buffer=1000, pipeline=train_pipeline),
)
