# Food-101 test: 25,250 images.
_base_ = ['classification.py']

benchmark = 'food101'
test_dataloader = dict(
    dataset=dict(
        type='mmpretrain.Food101',
        data_root='{{$PACL_DATA_ROOT:data}}/food-101',
        split='test',
        pipeline=_base_.test_pipeline,
    )
)
