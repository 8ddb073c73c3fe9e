# Conceptual 12M as img2dataset writes it: tar shards of jpg + txt + json.
# `train_dataloader.dataset.shards=...` points elsewhere, e.g. to a `pipe:` command.
train_pipeline = [
    dict(type='LoadPILImage'),
    dict(type='PickCaption'),
    dict(type='NounPrompt', prob=0.5, templates='pacl7'),
    dict(
        type='CLIPResizeCrop',
        model='ViT-B-16-quickgelu',
        pretrained='openai',
        crop='center',
    ),
    dict(
        type='PackSegInputs',
        meta_keys=('img_path', 'ori_shape', 'img_shape', 'caption', 'shard_position'),
    ),
]
train_dataloader = dict(
    batch_size=1024,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    sampler=None,
    drop_last=True,
    dataset=dict(
        type='ImageTextShards',
        shards='data/cc12m/{00000..01242}.tar',
        shuffle_buffer=1000,
        pipeline=train_pipeline,
    ),
)
