# The ceiling of what the frozen tokens hold: a linear classifier trained with masks,
# on scenes of all classes that no other experiment uses. A stock MMSeg head.
_base_ = [
    '../_base_/models/small_world.py',
    '../_base_/datasets/small_world.py',
    '../_base_/schedules/pacl.py',
    '../_base_/default_runtime.py',
]
clip = _base_.model.encoder  # a stock segmentor has none: its parts say it
model = dict(
    _delete_=True,
    type='EncoderDecoder',
    data_preprocessor=dict(type='CLIPDataPreProcessor', **clip),
    backbone=dict(type='PACLBackbone', output='block', **clip),
    decode_head=dict(
        type='FCNHead',
        in_channels=128,
        channels=128,
        num_convs=0,
        concat_input=False,
        dropout_ratio=0,
        num_classes=36,
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
train_dataloader = dict(
    batch_size=32,
    collate_fn=dict(type='pseudo_collate'),
    dataset=dict(
        dataset=dict(
            _delete_=True,
            type='SmallWorldSegmentation',
            split='val',
            seed=1,
            num_scenes=100_000,
            pipeline=[dict(type='PackSegInputs')],
        )
    ),
)
train_cfg = dict(max_iters=300, val_interval=300)
optim_wrapper = dict(optimizer=dict(lr=2e-2, weight_decay=0.0))
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=300))
val_evaluator = _base_.metrics  # a stock model knows one protocol
test_evaluator = val_evaluator
