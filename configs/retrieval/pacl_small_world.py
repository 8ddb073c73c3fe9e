# The captions of 500 scenes, of which many differ in a word or in the order of objects.
_base_ = [
    '../_base_/models/small_world_classifier.py',
    '../_base_/datasets/retrieval.py',
    '../_base_/default_runtime.py',
]
benchmark = 'small_world_retrieval'
test_dataloader = dict(
    num_workers=1,
    dataset=dict(
        type='SmallWorldCaptions', split='test', num_scenes=500, pipeline=[_base_.pack]
    ),
)
