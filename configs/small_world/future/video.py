# PACL's own weights on moving scenes: every frame on its own.
_base_ = ['../pacl.py']
clips = dict(
    type='SmallWorldClips',
    frames=8,
    pipeline=[
        dict(
            type='PackSegInputs',
            meta_keys=('img_path', 'ori_shape', 'img_shape', 'clip', 'frame', 'flow'),
        )
    ],
)
val_dataloader = dict(
    batch_size=40, dataset=dict(_delete_=True, split='val', num_scenes=40, **clips)
)
test_dataloader = dict(
    batch_size=40, dataset=dict(_delete_=True, split='test', num_scenes=60, **clips)
)
model = dict(test_cfg=dict(present_classes=False, token_labels=False))
of_pixels = [metric for metric in _base_.metrics if metric.type != 'TokenAccuracy']
val_evaluator = [*of_pixels, dict(type='Flicker')]
test_evaluator = val_evaluator
