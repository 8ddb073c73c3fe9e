# SUN397 test: 19,850 images of the first partition.
_base_ = ['classification.py']

benchmark = 'sun397'
test_dataloader = dict(
    dataset=dict(
        type='mmpretrain.SUN397',
        data_root='{{$PACL_DATA_ROOT:data}}/SUN397',
        split='test',
        pipeline=_base_.test_pipeline,
    )
)
