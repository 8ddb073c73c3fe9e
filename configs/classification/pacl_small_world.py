# Scenes of one object, all 36 classes, of which 6 were never seen in training.
_base_ = [
    '../_base_/models/small_world_classifier.py',
    '../_base_/datasets/classification.py',
    '../_base_/default_runtime.py',
]
benchmark = 'small_world_objects'
test_dataloader = dict(
    num_workers=1,
    dataset=dict(
        type='SmallWorldObjects',
        split='test',
        num_scenes=2000,
        pipeline=[dict(type='mmpretrain.PackInputs')],
    ),
)
