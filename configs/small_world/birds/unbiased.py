# PACL's embedder on the frozen tiny CLIP, taught two kinds of birds by captions, on
# backgrounds that tell nothing of them. Tests on as many of each kind on each place.
_base_ = [
    '../../_base_/models/small_world_classifier.py',
    '../../_base_/schedules/pacl.py',
    '../../_base_/default_runtime.py',
]
model = dict(
    decode_head=dict(
        dataset_name=None, vocabulary=['landbird', 'waterbird'], templates='photo'
    )
)
benchmark = 'small_world_birds'
train_dataloader = dict(
    batch_size=64,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DrawSampler'),
    collate_fn=dict(type='collate_image_text'),
    dataset=dict(
        type='ShuffledDraws',
        dataset=dict(
            type='SmallWorldBirds',
            split='train',
            num_scenes=100_000,
            bias=0.5,
            pipeline=[dict(type='PackImageText')],
        ),
    ),
)
birds = dict(
    type='SmallWorldBirds',
    bias=0.5,
    pipeline=[
        dict(type='mmpretrain.PackInputs', meta_keys=('img_path', 'ori_shape', 'place'))
    ],
)
val_dataloader = dict(
    batch_size=100,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(split='val', num_scenes=500, **birds),
)
test_dataloader = dict(
    batch_size=100,
    num_workers=1,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(split='test', num_scenes=2000, **birds),
)
val_evaluator = [dict(type='GroupAccuracy')]
test_evaluator = val_evaluator
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
train_cfg = dict(max_iters=150, val_interval=150)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(interval=150))
