# Oxford Flowers test: 6,149 images, 102 classes.
_base_ = ['classification.py']

benchmark = 'flowers102'
test_dataloader = dict(
    dataset=dict(
        type='mmpretrain.Flowers102',
        data_root='{{$PACL_DATA_ROOT:data}}/Flowers102',
        split='test',
        pipeline=_base_.test_pipeline,
    )
)
